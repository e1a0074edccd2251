# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups made and marked: the steps of the module database_backup, over one connection."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _backup as backup
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_database as asking
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_files as files
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_programs as programs
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils import _state_dir
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Manifest
from ansible_collections.connectin.rollback.plugins.module_utils._backup_database import Connection
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_rollback import wait_for_no_sessions
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Work:
    """One call of the module. ``warn`` takes what the operator should know although it stops nothing."""

    def __init__(
        self, params: Mapping[str, Any], database: Connection, run: programs.Run, warn: Callable[[str], None]
    ) -> None:
        self.params = params
        self.database = database
        self.run = run
        self.warn = warn
        self.folder: str = params["dest"].rstrip("/")
        self.id = backup.backup_id(self.folder)
        self.place = reading.locate(database, params["schema"])
        # Row security would hide rows from the counting; without it a table that has it fails, as pg_dump does.
        database.run("SET row_security = off")
        # A role may have limits that are meant for requests.
        database.run("SET statement_timeout = 0")
        database.run("SET idle_in_transaction_session_timeout = 0")

    def client(self) -> backup.Client:
        """The programs that fit the server, which they and this connection reach directly."""
        if self.database.pooled:
            problem = backup.pooled()
            raise PrismaError(f"{problem['message']}. Next: {problem['next']}", **backup.fields(problem))
        server = asking.server_major(self.database)
        found, searched = programs.find(self.run, self.params["client_dir"] or "", self.params["client_container"])
        client = backup.require_client(found, server, searched)
        if backup.client_warning(client, server):
            self.warn(backup.client_warning(client, server))
        return client

    def make(self, check: bool) -> tuple[bool, Manifest]:
        """Have the dump. Returns whether one was, or would be, made, and its manifest."""
        kind = backup.LOST if self.params["losses"] is not None or self.params["tables"] else backup.FULL
        client = self.client()
        if self.params["require_no_sessions"]:
            if not check:
                wait_for_no_sessions(self.database, self.params["sessions_wait"], time)
            elif reading.sessions(self.database):
                who = "; ".join(map(reading.session_text, reading.sessions(self.database)))
                self.warn(f"a real run would wait for these sessions to go, and refuse if they stay: {who}")
        self.database.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        losses, chosen = self._chosen()
        present = self._present(kind, chosen, losses)
        if present:
            return False, present
        tables = chosen if chosen is not None else asking.tables(self.database)
        draft = self._draft(kind, client, losses, tables, whole=chosen is None)
        if check:
            return True, draft
        return True, self._dump(client, draft, chosen)

    def _chosen(self) -> tuple[list[dict[str, Any]], list[Relation] | None]:
        """The losses, and the tables to dump: None for the whole database."""
        if self.params["losses"] is not None:
            return asking.resolve(self.database, self.place, self.params["losses"])
        if not self.params["tables"]:
            return [], None
        asked = [
            {
                "relation": names.qualified((table.partition(".")[0], table.partition(".")[2]))
                if "." in table
                else names.quote(table),
                "kind": "unknown",
                "text": f"{table} was dumped by name",
            }
            for table in self.params["tables"]
        ]
        _losses, chosen = asking.resolve(self.database, self.place, asked)
        if chosen is None:
            raise PrismaError(f"Not every table of {', '.join(self.params['tables'])} is there; nothing was dumped.")
        return [], chosen

    def _present(
        self, kind: str, chosen: Sequence[Relation] | None, losses: Sequence[Mapping[str, Any]]
    ) -> Manifest | None:
        """The dump that is there already, when it is whole, of the same tables and losses and not outdated."""
        try:
            manifest = files.read(self.folder, kind)
        except PrismaError:
            return None
        if manifest is None or manifest.whole != (chosen is None):
            return None
        if chosen is not None and set(manifest.rows()) != set(chosen) & set(asking.tables(self.database)):
            return None
        if list(map(_what, manifest.losses)) != list(map(_what, losses)):
            return None
        if self.params["fresh"] and manifest.position != asking.position(self.database):
            return None
        found = programs.checksum(os.path.join(self.folder, manifest.file))
        return manifest if found == (manifest.size, manifest.sha256) else None

    def _draft(
        self,
        kind: str,
        client: backup.Client,
        losses: Sequence[Mapping[str, Any]],
        tables: Sequence[Relation],
        *,
        whole: bool,
    ) -> Manifest:
        there = set(asking.tables(self.database))
        return Manifest(
            id=self.id,
            kind=kind,
            whole=whole,
            at=now(),
            size=0,
            sha256="",
            database=self.place.database,
            database_oid=asking.oid(self.database),
            server_version=self.place.server_version,
            client_version=client.version,
            position=asking.position(self.database),
            run_id=self.params["run_id"] or self.id,
            release_from=self.params["release_from"],
            release_to=self.params["release_to"],
            # A partitioned table itself has no rows.
            tables=tuple({"schema": table[0], "name": table[1], "rows": 0} for table in tables if table in there),
            losses=tuple(losses),
            migrations=tuple(asking.migrations(self.database, self.place)),
        )

    def _dump(self, client: backup.Client, draft: Manifest, chosen: Sequence[Relation] | None) -> Manifest:
        _state_dir.make_directory(self.folder)
        os.chmod(self.folder, _state_dir.DIRECTORY_MODE)
        snapshot = self.database.value("SELECT pg_catalog.pg_export_snapshot()")
        connection = programs.connection_string(self.database, client, self.params["connect_timeout"])
        argv = client.argv("pg_dump", backup.dump_arguments(connection, snapshot, chosen))
        counting = _Thread(lambda: asking.count(self.database, list(draft.rows())))
        with programs.interruptible(), self._placed(draft.file) as (stream, path):
            counting.start()
            size, sha256 = programs.dump(argv, programs.environment(self.database), stream)
            stream.flush()
            rows = counting.result()
            listing = programs.listing(client, programs.environment(self.database), path)
            for relation in rows:
                if f" TABLE DATA {relation[0]} {relation[1]} " not in listing:
                    raise PrismaError(
                        f"pg_dump left out the table {names.shown(relation)}: the dump was thrown away.",
                        code="backup_failed",
                    )
        manifest = replace(
            draft,
            size=size,
            sha256=sha256,
            tables=tuple({"schema": t[0], "name": t[1], "rows": number} for t, number in rows.items()),
        )
        files.write(self.folder, manifest)
        return manifest

    @contextlib.contextmanager
    def _placed(self, file: str) -> Iterator[tuple[Any, str]]:
        """A new file that gets its name only when it is whole and on the disk."""
        prefix = f".{file}."
        for left in os.listdir(self.folder):
            # Of a run that was killed; the rollback lock keeps a second run away.
            if left.startswith(prefix):
                os.unlink(os.path.join(self.folder, left))
        try:
            descriptor, path = tempfile.mkstemp(prefix=prefix, dir=self.folder)
            with os.fdopen(descriptor, "wb") as stream:
                try:
                    yield stream, path
                    stream.flush()
                    os.fsync(stream.fileno())
                    os.replace(path, os.path.join(self.folder, file))
                except BaseException:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    raise
            _state_dir.sync_directory(self.folder)
        except OSError as error:
            raise PrismaError(
                f"No backup was made: {os.path.join(self.folder, file)} cannot be written: {error.strerror}. "
                f"Free space there (df -h {self.folder}), or keep backups elsewhere: -e rollback_backup_dir=<folder>.",
                code="backup_failed",
            ) from None

    def mark(self, check: bool) -> tuple[bool, Manifest]:
        """Note where writing stands now that the rollback is done, so that later writes show."""
        changed = False
        newest: Manifest | None = None
        full, lost = files.read(self.folder, backup.FULL), files.read(self.folder, backup.LOST)
        quiet = bool(full and lost and full.position == lost.position)
        for kind in (backup.LOST, backup.FULL):
            manifest = files.read(self.folder, kind)
            if manifest is None:
                continue
            position = asking.position(self.database)
            newest = manifest
            if (manifest.after or {}).get("position") != position:
                newest = replace(manifest, after={"at": now(), "position": position, "quiet": quiet})
                changed = True
                if not check:
                    files.write(self.folder, newest)
        if newest is None:
            raise PrismaError(f"There is no backup in {self.folder} to mark.", code="backup_missing")
        return changed, newest


class _Thread(threading.Thread):
    """Counts while pg_dump dumps."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join()
        if self._error:
            raise self._error
        return self._result


def _what(loss: Mapping[str, Any]) -> dict[str, Any]:
    """A loss without its size, which grows while everything serves."""
    return {key: value for key, value in loss.items() if key not in ("count", "text")}
