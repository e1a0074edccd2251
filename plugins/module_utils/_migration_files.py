# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Migrations read from where a release keeps them: a folder, a commit of a checkout, or an image that is not started.

A folder that holds SHA256SUMS, as the archive's do, is held to it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _docker_engine, _prisma_layout, _prisma_project
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import Files

UNREADABLE = {"code": "migrations_denied", "next": "run it with become (-b); see: ls -ld of that path"}
SUMS = "SHA256SUMS"
SCRIPTS = ("migration.sql", "down.sql", "verify.sql")
# A folder of migrations is text: what is larger is another folder, and must not fill this process.
ARCHIVE_LIMIT = 64 * 1024 * 1024
# git's arguments in, (rc, stdout, stderr) out
Git = Callable[[list[str]], "tuple[int, bytes, bytes]"]

_GIT = re.compile(r"^git:(?P<checkout>[^@]+)@(?P<ref>[^:]+):(?P<folder>.+)$")
_IMAGE = re.compile(r"^image:(?P<image>.+):(?P<folder>/[^:]+)$")


@dataclass(frozen=True)
class Readers:
    """What reads a source that is no folder: git, and the Docker engine of DOCKER_HOST ('' is the local one)."""

    git: Git | None = None
    docker_host: str = ""


def readers(module: Any) -> Readers:
    """What reads sources on the host of an AnsibleModule."""

    def git(arguments: list[str]) -> tuple[int, bytes, bytes]:
        return module.run_command([found, *arguments], encoding=None)

    found = module.get_bin_path("git")
    return Readers(git if found else None, os.environ.get("DOCKER_HOST", ""))


def names(source: str, readers: Readers) -> list[str]:
    """The migrations of a source, sorted: its folders that hold a migration.sql."""
    found = _read_one(source, readers)
    if not found:
        raise PrismaError(f"{source} holds no migration. Give the folder that holds the folders of the migrations.")
    return sorted(name for name, files in found.items() if "migration.sql" in files)


def read(sources: Sequence[str], readers: Readers) -> dict[str, tuple[Files, ...]]:
    """Each migration's files by its name, one entry for every source that has them, in the order of the sources."""
    found: dict[str, tuple[Files, ...]] = {}
    for source in sources:
        for name, content in _read_one(source, readers).items():
            folder = f"{source.rstrip('/')}/{name}"
            files = Files(
                directory=folder,
                migration_sql=content.get("migration.sql"),
                down_sql=content.get("down.sql"),
                down_path=f"{folder}/down.sql",
                verify_sql=content.get("verify.sql"),
                verify_path=f"{folder}/verify.sql",
                damaged=_damaged(content),
            )
            found[name] = (*found.get(name, ()), files)
    return found


def sums(content: Mapping[str, bytes]) -> str:
    """The text of SHA256SUMS for the scripts of one migration, as ``sha256sum -c`` reads it."""
    return "".join(
        f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in SCRIPTS if content.get(name) is not None
    )


def _damaged(content: Mapping[str, bytes]) -> str:
    """The first file that is not what SHA256SUMS says of it; '' where all are, or where there is no such list."""
    if SUMS not in content:
        return ""
    listed = {}
    for line in content[SUMS].decode("utf-8", "replace").splitlines():
        digest, _space, file = line.partition(" ")
        # `sha256sum -b` writes a star before the name.
        listed[file.strip().lstrip("*")] = digest
    for name in SCRIPTS:
        there = content.get(name)
        if (None if there is None else hashlib.sha256(there).hexdigest()) != listed.get(name):
            return name
    return ""


def _read_one(source: str, readers: Readers) -> dict[str, dict[str, bytes]]:
    """The migrations of one source: {name: {file: content}}."""
    git, image = _GIT.match(source), _IMAGE.match(source)
    if git:
        found = _scripts_of(_git_files(source, git, readers), source)
    elif image:
        found = _scripts_of(_image_files(source, image, readers), source)
    elif source.startswith(("git:", "image:")):
        raise PrismaError(
            f"{source} cannot be read as a source of migrations: write git:<checkout>@<tag>:<folder in it> or "
            "image:<image>:<absolute folder in it>."
        )
    else:
        found = _folder(source)
    return {name: files for name, files in found.items() if set(files) & {"migration.sql", "down.sql"}}


def _folder(directory: str) -> dict[str, dict[str, bytes]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        # The archive is made by the first rollback.
        return {}
    except OSError as error:
        raise PrismaError(
            f"Cannot read the folder of migrations {directory}: {error.strerror}.", **UNREADABLE
        ) from None
    found = {}
    for entry in entries:
        # Prisma takes real folders only, no links to them. A name that begins with a dot is the archive's, half done.
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            contents = ((name, _content(os.path.join(entry.path, name))) for name in (*SCRIPTS, SUMS))
            found[entry.name] = {name: content for name, content in contents if content is not None}
    return found


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrismaError(f"Cannot read {path}: {error.strerror}.", **UNREADABLE) from None


def _scripts_of(files: Iterable[tuple[str, bytes]], source: str) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path, content in files:
        if path == _prisma_project.LOCK_FILE:
            place = f"{source}/{path}"
            _prisma_layout.require_postgresql(
                _prisma_layout.read_lock(content.decode("utf-8", "replace"), place), place
            )
        name, _slash, file = path.partition("/")
        if file in (*SCRIPTS, SUMS):
            found.setdefault(name, {})[file] = content
    return found


def _git_files(source: str, match: re.Match[str], readers: Readers) -> list[tuple[str, bytes]]:
    folder = os.path.normpath(match["folder"]).strip("/")
    if readers.git is None:
        raise PrismaError(f"{source} needs git on the host that runs the task. Install it there: apt-get install git")
    # Whose checkout it is does not matter to a read of its objects.
    safe = ["-c", "safe.directory=*", "-C", match["checkout"]]
    rc, output, error = readers.git([*safe, "archive", "--format=tar", match["ref"], "--", folder])
    if rc != 0:
        why = error.decode("utf-8", "replace").strip().splitlines()
        raise PrismaError(
            f"Cannot read {source}: {why[-1] if why else f'git ended with {rc}'}. Look at: git -C {match['checkout']} "
            f"ls-tree {match['ref']}:{folder}"
        )
    return _unpacked(output, folder, source)


def _image_files(source: str, match: re.Match[str], readers: Readers) -> list[tuple[str, bytes]]:
    folder = match["folder"].rstrip("/")
    try:
        engine = _docker_engine.Engine(_docker_engine.socket_path(readers.docker_host))
        try:
            output = engine.image_folder(match["image"], folder, ARCHIVE_LIMIT)
        finally:
            engine.close()
    except _docker_engine.EngineError as error:
        raise PrismaError(f"Cannot read {source}: {error}. Look at: docker image inspect {match['image']}") from None
    if output is None:
        raise PrismaError(
            f"Cannot read {source}: there is no folder {folder} in the image. Look at: "
            f"docker run --rm --entrypoint ls {match['image']} {os.path.dirname(folder)}"
        )
    # The engine's archive begins with the folder's own name.
    return _unpacked(output, os.path.basename(folder), source)


def _unpacked(archive: bytes, folder: str, source: str) -> list[tuple[str, bytes]]:
    """The plain files below a folder of a tar archive, by their path from there."""
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and member.name.startswith(folder + "/"):
                    found.append((member.name[len(folder) + 1 :], content.read()))
    except tarfile.TarError as error:
        raise PrismaError(
            f"Cannot read {source}: {error}. More than {ARCHIVE_LIMIT // 1024 // 1024} MB is no folder of migrations."
        ) from None
    return found
