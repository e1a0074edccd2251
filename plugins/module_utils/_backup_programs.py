# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_dump and pg_restore as processes: found, run, and ended with the module.

They are not started with run_command, which keeps in memory all that a program writes: here that is the database.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _backup as backup
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_database as asking
from ansible_collections.connectin.rollback.plugins.module_utils import _connection
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Client
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

PROGRAMS = ("pg_dump", "pg_restore")
# Debian's and Red Hat's folders of each version; /usr/bin/pg_dump is only a switch between them on Debian.
FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
CHUNK = 1 << 20
Run = Callable[[Sequence[str]], "tuple[int, str, str]"]


def runner(module: Any) -> Run:
    """How short commands are run."""
    return lambda argv: module.run_command(list(argv))


def find(run: Run, folder: str, container: str) -> tuple[list[Client], str]:
    """The clients there are, and where they were looked for."""
    if container:
        status, output, errors = run([*backup.inside(container), "pg_dump", "--version"])
        version = backup.version_in(output) if status == 0 else ""
        why = "" if version else f" ({backup.error_text(errors or output)})"
        return [Client("", version, container)] if version else [], f"the container {container}{why}"
    searched = [folder] if folder else _folders()
    found = []
    for each in searched:
        if all(os.access(os.path.join(each, program), os.X_OK) for program in PROGRAMS):
            status, output, _errors = run([os.path.join(each, "pg_dump"), "--version"])
            version = backup.version_in(output) if status == 0 else ""
            if version:
                found.append(Client(each, version))
    return found, folder or "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin and PATH"


def _folders() -> list[str]:
    found = [path for pattern in FOLDERS for path in sorted(glob.glob(pattern))]
    return list(dict.fromkeys([*found, *filter(os.path.isabs, os.environ.get("PATH", "").split(os.pathsep))]))


def free(path: str) -> int:
    """The bytes free where the folder is, or will be."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    there = os.statvfs(path)
    return there.f_bavail * there.f_frsize


def readiness(database: Database, run: Run, folder: str, container: str, path: str) -> dict[str, Any]:
    """Whether a backup could be made now, as prisma_migration_info tells it; ``{}`` without a path."""
    if not path:
        return {}
    server = asking.server_major(database)
    clients, searched = find(run, folder, container)
    client = backup.choose(clients, server)
    size, unreadable = asking.size(database)
    facts = {
        "bytes": size,
        "free": free(path),
        "pooled": database.pooled,
        "unreadable": unreadable,
        # By this run: the plan is made again once everything is dumped.
        "dumped": os.path.exists(os.path.join(path, f"{backup.FULL}.json")),
    }
    return {
        "client": client.where if client else "",
        "client_version": client.version if client else "",
        "bytes": size,
        "free": facts["free"],
        "path": path,
        "problems": backup.problems(clients, server, searched, facts, path),
        "warnings": [text for text in [client and backup.client_warning(client, server)] if text],
    }


def connection_string(database: Database, client: Client, timeout: int) -> str:
    return backup.conninfo(_connection.with_roots(database.target.params, client.major * 10000), timeout)


def environment(database: Database) -> dict[str, str]:
    """The password is where only the user of the process and root can read it, and not on the command line."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    if database.target.password:
        inherited["PGPASSWORD"] = database.target.password
    return {**inherited, "LC_ALL": "C"}


@contextlib.contextmanager
def started(argv: Sequence[str], env: Mapping[str, str], **streams: Any) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the block. What it complains of is in its ``complaints`` afterwards."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(list(argv), env=dict(env), stderr=errors, **streams)
        except OSError as error:
            raise PrismaError(
                f"{argv[0]} could not be started: {error.strerror}. Nothing was changed.", code="backup_client_missing"
            ) from None
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            errors.seek(0)
            process.complaints = errors.read().decode("utf-8", errors="replace")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the block as an error does, so that its leavings are cleaned away."""

    def stop(_number: int, _frame: Any) -> None:
        raise PrismaError("Interrupted by SIGTERM; the half-made dump was removed.", code="interrupted")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def dump(argv: Sequence[str], env: Mapping[str, str], stream: Any) -> tuple[int, str]:
    """Run pg_dump into an open file. Returns the size and the SHA-256.

    Its output passes through here: a dump whose module was killed ends at its next write.
    """
    digest = hashlib.sha256()
    size = 0
    with started(argv, env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        for chunk in iter(lambda: process.stdout.read(CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
            stream.write(chunk)
        status = process.wait()
    if status != 0:
        raise PrismaError(
            f"pg_dump failed, and no backup was made: {backup.error_text(process.complaints)}. Mend that and run the "
            "same command again; when another backup is at hand: -e rollback_backup=false.",
            code="backup_failed",
        )
    return size, digest.hexdigest()


def listing(client: Client, env: Mapping[str, str], path: str) -> str:
    """The table of contents of a dump, which proves that pg_restore reads it."""
    with open(path, "rb") as stream, tempfile.TemporaryFile() as out:
        argv = client.argv("pg_restore", ["--list"])
        with started(argv, env, stdin=stream, stdout=out) as process:
            status = process.wait()
        out.seek(0)
        text = out.read().decode("utf-8", errors="replace")
    if status != 0:
        raise PrismaError(
            f"pg_restore cannot read {path}: {backup.error_text(process.complaints)}.", code="backup_damaged"
        )
    return text


def checksum(path: str) -> tuple[int, str]:
    """The size and SHA-256 of a file; (0, '') when it is not there."""
    digest = hashlib.sha256()
    size = 0
    try:
        with open(path, "rb") as stream:
            for chunk in iter(lambda: stream.read(CHUNK), b""):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return 0, ""
    return size, digest.hexdigest()


def rows(client: Client, env: Mapping[str, str], path: str, take: Callable[..., None]) -> None:
    """Read a dump's rows: ``take(relation, columns, lines)`` is called for each table, and reads its lines."""
    with open(path, "rb") as stream:
        argv = client.argv("pg_restore", ["--data-only", "--file=-"])
        with started(argv, env, stdin=stream, stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                header = backup.copy_header(line)
                if header:
                    lines = _until_end(process.stdout)
                    take(*header, lines)
                    for _left in lines:
                        pass
            status = process.wait()
    if status != 0:
        raise PrismaError(
            f"pg_restore cannot read {path}: {backup.error_text(process.complaints)}. Nothing was changed.",
            code="backup_damaged",
        )


def _until_end(stream: Any) -> Iterator[bytes]:
    for line in stream:
        if line == b"\\.\n":
            return
        yield line


@contextlib.contextmanager
def use_list(client: Client, env: Mapping[str, str], text: str) -> Iterator[str]:
    """A file with pg_restore's list where the client can read it."""
    if not client.container:
        with tempfile.NamedTemporaryFile("w", prefix="connectin-restore-") as stream:
            stream.write(text)
            stream.flush()
            yield stream.name
        return
    path = f"/tmp/connectin-restore-{os.getpid()}.list"
    _in_container(client, env, ["tee", path], text)
    try:
        yield path
    finally:
        _in_container(client, env, ["rm", "-f", path], "")


def _in_container(client: Client, env: Mapping[str, str], words: Sequence[str], text: str) -> None:
    argv = [*backup.inside(client.container), *words]
    with started(argv, env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        process.communicate(text.encode())
    if process.returncode != 0:
        raise PrismaError(f"{' '.join(argv)} failed: {backup.error_text(process.complaints)}. Nothing was changed.")


def restore(argv: Sequence[str], env: Mapping[str, str], path: str) -> None:
    """Run pg_restore on a dump, in one transaction."""
    with open(path, "rb") as stream, started(argv, env, stdin=stream, stdout=subprocess.DEVNULL) as process:
        status = process.wait()
    if status != 0:
        raise PrismaError(
            f"pg_restore failed, and the database is as it was (one transaction): "
            f"{backup.error_text(process.complaints)}. Mend that and run the same command again.",
            code="restore_failed",
        )
