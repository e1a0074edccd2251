# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of the database: which client makes them, what is kept of them, and who may put one back. Pure.

A backup is a folder named by its id, the run that made it. In it are ``full.dump``, the whole database while everything
still served, and ``lost.dump``, what a rollback loses, made once the writers were stopped; beside each its manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation

VERSION = 1
FULL, LOST = "full", "lost"
# What has to stay free beside the dumps, for the record and the down scripts.
RESERVE = 32 * 1024 * 1024
# Where a loss is of rows that are gone, and where of one column's values.
ROWS = frozenset(("drop_table", "truncate", "delete"))
COLUMN = "drop_column"


@dataclass(frozen=True)
class Client:
    """pg_dump and pg_restore: in ``folder`` of the host, or in ``container`` on its path."""

    folder: str
    version: str
    container: str = ""

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def where(self) -> str:
        return f"the container {self.container}" if self.container else self.folder

    def argv(self, program: str, arguments: Sequence[str] = ()) -> list[str]:
        """The command line. The password is never in it: it is in the environment of the process, as PGPASSWORD."""
        if self.container:
            return [*inside(self.container, ("--env", "PGPASSWORD")), program, *arguments]
        return [f"{self.folder}/{program}", *arguments]


def inside(container: str, options: Sequence[str] = ()) -> list[str]:
    """The start of a command line that runs a program in a container."""
    return ["docker", "exec", "--interactive", *options, container]


def version_in(text: str) -> str:
    """``17.6`` from ``pg_dump (PostgreSQL) 17.6 (Debian 17.6-1)``; '' from anything else."""
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", text)
    return match[1] if match else ""


def choose(found: Iterable[Client], server: int) -> Client | None:
    """The client of the server's major version, else the oldest newer one: an older one cannot dump it."""
    fit = sorted((client for client in found if client.major >= server), key=lambda client: client.major)
    return fit[0] if fit else None


def require_client(found: Sequence[Client], server: int, searched: str) -> Client:
    client = choose(found, server)
    if client:
        return client
    problem = client_missing(found, server, searched)
    raise PrismaError(f"{problem['message']} Next: {problem['next']}", **fields(problem))


def client_missing(found: Sequence[Client], server: int, searched: str) -> dict[str, str]:
    has = ", ".join(f"{client.version} in {client.where}" for client in found)
    return {
        "code": "backup_client_missing",
        "message": f"no backup can be made: the server is PostgreSQL {server}, and pg_dump of {server} or newer is not "
        f"in {searched}" + (f" (found: {has})" if has else ""),
        "next": f"apt-get install postgresql-client-{server}; or -e rollback_backup_client_container=<container of the "
        "database>; or, when another backup is at hand, -e rollback_backup=false",
    }


def fields(problem: Mapping[str, str]) -> dict[str, str]:
    return {"code": problem["code"], "next": problem["next"]}


def client_warning(client: Client, server: int) -> str:
    """What to know of a client that is not the server's; '' when there is nothing."""
    if client.major == server:
        return ""
    return (
        f"pg_dump {client.version} ({client.where}) is newer than the server, PostgreSQL {server}: its dump is good, "
        f"but its pg_restore may set what this server does not know. Install postgresql-client-{server} before that"
    )


def problems(
    found: Sequence[Client], server: int, searched: str, facts: Mapping[str, Any], path: str
) -> list[dict[str, str]]:
    """Everything that would keep a backup from being made. ``facts``: bytes, free, pooled, unreadable, dumped."""
    wrong: list[dict[str, str]] = []
    if choose(found, server) is None:
        wrong.append(client_missing(found, server, searched))
    # The dump of all, and that of what gets lost, which may be all again. Dumps are compressed; tables hardly are.
    needed = (1 if facts.get("dumped") else 2) * facts["bytes"] + RESERVE
    if facts["free"] < needed:
        wrong.append(
            {
                "code": "backup_disk_full",
                "message": f"{path} has {size_text(facts['free'])} free, and the backups may need {size_text(needed)}",
                "next": f"free space there (df -h {path}); or keep backups elsewhere: -e rollback_backup_dir=<folder>; "
                "or, when another backup is at hand, -e rollback_backup=false",
            }
        )
    if facts["pooled"]:
        wrong.append(pooled())
    if facts["unreadable"]:
        wrong.append(
            {
                "code": "backup_forbidden",
                "message": "the database's user may not read every table, so pg_dump would fail: "
                + ", ".join(facts["unreadable"]),
                "next": "-e rollback_database_url=<URL of the owner>; or, when another backup is at hand, "
                "-e rollback_backup=false",
            }
        )
    return wrong


def pooled() -> dict[str, str]:
    return {
        "code": "backup_pooled",
        "message": "the database URL leads to a pooler such as PgBouncer, through which pg_dump cannot be trusted",
        "next": "-e rollback_database_url=<the direct URL>, the one that Prisma has as directUrl",
    }


def size_text(number: int) -> str:
    """``3.2 GB``, in the largest unit that leaves at least one."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number} bytes"


def conninfo(params: Mapping[str, str], timeout: int) -> str:
    """libpq's connection string without the password, fit for a command line."""
    pairs = {key: value for key, value in params.items() if key != "password"}
    pairs.update(connect_timeout=str(timeout), application_name="connectin.rollback")
    return " ".join(f"{key}='{_escaped(value)}'" for key, value in sorted(pairs.items()))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def dump_arguments(connection: str, snapshot: str, tables: Sequence[Relation] | None) -> list[str]:
    """pg_dump's arguments: of these tables, None for the whole database, as they were in the snapshot."""
    chosen = [] if tables is None else ["--strict-names", *(f"--table={names.qualified(table)}" for table in tables)]
    return [
        "--format=custom",
        "--no-password",
        "--encoding=UTF8",
        # A migration that holds a table for long is told, not waited for without end.
        "--lock-wait-timeout=60s",
        f"--snapshot={snapshot}",
        *chosen,
        f"--dbname={connection}",
    ]


def restore_arguments(connection: str, use_list: str) -> list[str]:
    return [
        "--no-password",
        "--clean",
        "--if-exists",
        "--single-transaction",
        "--exit-on-error",
        f"--use-list={use_list}",
        f"--dbname={connection}",
    ]


_ENTRY = re.compile(r"^\d+; \d+ \d+ (.*)$")
# They outlive a restore of what they contain or extend, and only their owner may touch them.
_KEPT = ("EXTENSION -", "PUBLICATION -", "SUBSCRIPTION -", "EVENT TRIGGER -", "COMMENT - EXTENSION", "DATABASE")
_OF_SCHEMA = ("SCHEMA - ", "COMMENT - SCHEMA ", "ACL - SCHEMA ")


def without_kept(listing: str, schemas: Iterable[str]) -> str:
    """pg_restore's list without what stays in place: extensions, and the schemas that are there."""
    there = tuple(f"{start}{schema} " for start in _OF_SCHEMA for schema in schemas)
    lines = []
    for line in listing.splitlines():
        entry = _ENTRY.match(line)
        if entry and (entry[1].startswith(_KEPT) or (entry[1] + " ").startswith(there)):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def error_text(stderr: str) -> str:
    """What a PostgreSQL program complains of, without the lines that quote rows."""
    quoting = ("DETAIL:", "CONTEXT:", "HINT:", "Command was:")
    said = []
    for line in stderr.splitlines():
        text = re.sub(r"^pg_(dump|restore): (error: |warning: |detail: |hint: )?", "", line.strip())
        if text and not text.startswith(quoting):
            said.append(text)
    return " | ".join(dict.fromkeys(said[:4])) or "it gave no reason"


_HEADER = re.compile(rb'^COPY (?P<relation>(?:"(?:[^"]|"")*"|[^ (])+) \((?P<columns>.*)\) FROM stdin;$')
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^",. ]+)')


def copy_header(line: bytes) -> tuple[Relation, tuple[str, ...]] | None:
    """The table and columns of a line of pg_restore that begins a table's rows, else None."""
    match = _HEADER.match(line.rstrip(b"\r\n"))
    if not match:
        return None
    relation = _split_names(match["relation"].decode())
    if len(relation) != 2:
        return None
    return (relation[0], relation[1]), tuple(_split_names(match["columns"].decode()))


def _split_names(text: str) -> list[str]:
    return [match[2] or match[1].replace('""', '"') for match in _NAME.finditer(text)]


@dataclass(frozen=True)
class Manifest:
    """What is known of a dump. ``after`` is the write position right after the rollback, None where nobody noted it."""

    id: str
    kind: str
    whole: bool
    at: str
    size: int
    sha256: str
    database: str
    database_oid: int
    server_version: str
    client_version: str
    position: int
    run_id: str
    release_from: str
    release_to: str
    tables: tuple[Mapping[str, Any], ...]
    losses: tuple[Mapping[str, Any], ...]
    migrations: tuple[Mapping[str, Any], ...]
    after: Mapping[str, Any] | None = None

    @property
    def file(self) -> str:
        return f"{self.kind}.dump"

    def as_text(self) -> str:
        stored = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return json.dumps({"v": VERSION, "file": self.file, **stored}, indent=1) + "\n"

    def rows(self) -> dict[Relation, int]:
        return {(table["schema"], table["name"]): table["rows"] for table in self.tables}


def parse(text: str, path: str) -> Manifest:
    """Read a manifest; one of a newer collection, or none at all, is an error."""
    try:
        raw = json.loads(text)
        if raw["v"] != VERSION:
            raise PrismaError(f"{path} was written by another version of this collection (format {raw['v']}).")
        fields = {key: raw[key] for key in Manifest.__dataclass_fields__}
        for key in ("tables", "losses", "migrations"):
            fields[key] = tuple(fields[key])
        manifest = Manifest(**fields)
        manifest.rows()
        return manifest
    except (ValueError, TypeError, KeyError):
        raise PrismaError(f"{path} is no manifest of a backup; it was damaged.", code="backup_damaged") from None


def backup_id(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def damaged(path: str, manifest: Manifest, size: int, sha256: str) -> PrismaError:
    return PrismaError(
        f"{path} is not what was dumped: it has {size} bytes and SHA-256 {sha256[:16]}..., the manifest says "
        f"{manifest.size} bytes and {manifest.sha256[:16]}.... Nothing was changed. Fetch it from where backups are "
        f"copied to; {'lost.dump' if manifest.kind == FULL else 'full.dump'} beside it may still be good.",
        code="backup_damaged",
    )


def require_consent(
    manifest: Manifest, oid: int, position: int, confirm: str, changed: Callable[[], Sequence[str]]
) -> None:
    """A whole restore takes the database back to the moment of the dump.

    Nothing is lost by it as long as nothing was written between the two dumps, nor after the rollback; otherwise the
    operator names the backup.
    """
    if confirm == manifest.id or untouched(manifest, oid, position):
        return
    why = (
        f"something wrote in the server since the dump (the rollback ended {manifest.after['at']}; autovacuum and "
        "other databases of the same server count too)"
        if manifest.after
        else "nobody noted how the rollback ended, so it may have been written to since"
    )
    said = f", and the consent given is for {confirm!r}" if confirm else ""
    differs = changed()[:10]
    lost = f" Rows now and then: {'; '.join(differs)}." if differs else " Every table has as many rows as then."
    raise PrismaError(
        f"Nothing was changed: {why}, and a whole restore takes everything back to {manifest.at}{said}.{lost} "
        f"If that may be lost: confirm={manifest.id} (in a playbook: -e rollback_confirm_restore={manifest.id}). "
        "To put back only what the rollback lost, and keep what was written since: what=lost (-e "
        "rollback_backup_restore=lost).",
        code="restore_unconfirmed",
        next=f"-e rollback_confirm_restore={manifest.id}",
    )


def untouched(manifest: Manifest, oid: int, position: int) -> bool:
    """Whether no transaction but the rollback wrote anywhere in the server since the dump."""
    after = manifest.after or {}
    return bool(after.get("quiet")) and after.get("position") == position and manifest.database_oid == oid


def changed_tables(manifest: Manifest, now: Mapping[Relation, int]) -> list[str]:
    """Where the numbers of rows differ between the dump and now, as ``public.posts 5, then 3``."""
    then = manifest.rows()
    return [
        f"{names.shown(table)} {now.get(table, 'gone')}, then {then.get(table, 'not there')}"
        for table in sorted({*then, *now})
        if now.get(table) != then.get(table)
    ]


def lost_tables(losses: Sequence[Mapping[str, Any]]) -> tuple[dict[Relation, set[str]], list[str]]:
    """By table what it lost: column names, '' for rows; and in words what no program can put back."""
    found: dict[Relation, set[str]] = {}
    words: list[str] = []
    for loss in losses:
        table = (loss["schema"], loss["table"])
        if loss["table"] and loss["kind"] in ROWS:
            found.setdefault(table, set()).add("")
        elif loss["table"] and loss["kind"] == COLUMN:
            found.setdefault(table, set()).add(loss["column"])
        else:
            words.append(loss["text"])
    return found, list(dict.fromkeys(words))
