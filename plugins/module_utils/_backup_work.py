# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups made, noted and put back: the steps of the module database_backup, over one connection."""

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
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_merge as merging
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_programs as programs
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils import _state_dir
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Manifest
from ansible_collections.connectin.rollback.plugins.module_utils._backup_database import Connection
from ansible_collections.connectin.rollback.plugins.module_utils._connection import DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_rollback import wait_for_no_sessions
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(folder: str, kind: str) -> Manifest | None:
    """The manifest of a dump, None when there is none."""
    path = os.path.join(folder, f"{kind}.json")
    text = _state_dir.read_text(path)
    return None if text is None else backup.parse(text, path)


def write(folder: str, manifest: Manifest) -> None:
    _state_dir.write_atomic(os.path.join(folder, f"{manifest.kind}.json"), manifest.as_text().encode())


def require(folder: str, kind: str) -> Manifest:
    """The manifest of a dump that is as it was made."""
    manifest = read(folder, kind)
    path = os.path.join(folder, f"{kind}.dump")
    if manifest is None:
        raise PrismaError(
            f"There is no backup at {path}. List those there are: ansible-playbook restore_backup.yml",
            code="backup_missing",
            next="ansible-playbook restore_backup.yml",
        )
    size, sha256 = programs.checksum(path)
    if (size, sha256) != (manifest.size, manifest.sha256):
        raise backup.damaged(path, manifest, size, sha256)
    return manifest


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
            raise PrismaError(f"{problem['message']}. Next: {problem['next']}", **problem_fields(problem))
        server = asking.server_major(self.database)
        found, searched = programs.find(self.run, self.params["client_dir"] or "", self.params["client_container"])
        client = backup.require_client(found, server, searched)
        if backup.client_warning(client, server):
            self.warn(backup.client_warning(client, server))
        return client

    # -- present

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
            manifest = read(self.folder, kind)
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
        write(self.folder, manifest)
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

    # -- marked

    def mark(self, check: bool) -> tuple[bool, Manifest]:
        """Note where writing stands now that the rollback is done, so that later writes show."""
        changed = False
        newest: Manifest | None = None
        full, lost = read(self.folder, backup.FULL), read(self.folder, backup.LOST)
        quiet = bool(full and lost and full.position == lost.position)
        for kind in (backup.LOST, backup.FULL):
            manifest = read(self.folder, kind)
            if manifest is None:
                continue
            position = asking.position(self.database)
            newest = manifest
            if (manifest.after or {}).get("position") != position:
                newest = replace(manifest, after={"at": now(), "position": position, "quiet": quiet})
                changed = True
                if not check:
                    write(self.folder, newest)
        if newest is None:
            raise PrismaError(f"There is no backup in {self.folder} to mark.", code="backup_missing")
        return changed, newest

    # -- restored

    def restore(self, check: bool) -> tuple[bool, Manifest, dict[str, Any]]:
        """Put the backup back. Returns whether anything changed, the manifest, and ``restored``, ``kept``, ``left``."""
        kind = backup.FULL if self.params["what"] == "all" else backup.LOST
        manifest = require(self.folder, kind)
        if manifest.database != self.place.database:
            raise PrismaError(
                f"The backup {manifest.id} is of the database {manifest.database}, and the URL names "
                f"{self.place.database}. Nothing was changed.",
                code="restore_elsewhere",
            )
        if self.place.standby:
            raise PrismaError(f"{self.place.database} is on a standby. Give the URL of the primary.")
        changed, found = (self._restore_all if kind == backup.FULL else self._restore_lost)(manifest, check)
        return changed, manifest, found

    def _restore_all(self, manifest: Manifest, check: bool) -> tuple[bool, dict[str, Any]]:
        client = self.client()
        backup.require_consent(
            manifest,
            asking.oid(self.database),
            asking.position(self.database),
            self.params["confirm"],
            # Counting may take long, and is only for those who have to decide.
            lambda: backup.changed_tables(manifest, asking.count(self.database, asking.tables(self.database))),
        )
        sessions = reading.sessions(self.database)
        if sessions:
            who = "; ".join(map(reading.session_text, sessions))
            raise PrismaError(
                f"Nothing was changed: {len(sessions)} other session{'s are' if len(sessions) > 1 else ' is'} "
                f"connected to {self.place.database}: {who}. Stop what is connected (on every host: docker compose "
                "stop <service>), and run the same command again.",
                code="writers_connected",
                sessions=sessions,
            )
        found = {"restored": _rows_of(manifest), "kept": {}, "left": []}
        if check:
            return True, found
        env = programs.environment(self.database)
        path = os.path.join(self.folder, manifest.file)
        text = backup.without_kept(programs.listing(client, env, path), asking.schemas(self.database))
        # A deploy that comes meanwhile waits for this lock, as for any other one.
        if not self.database.value(f"SELECT pg_catalog.pg_try_advisory_lock({reading.LOCK})"):
            raise self._locked()
        connection = programs.connection_string(self.database, client, self.params["connect_timeout"])
        with programs.use_list(client, env, text) as use_list:
            programs.restore(client.argv("pg_restore", backup.restore_arguments(connection, use_list)), env, path)
        self._prove(manifest, found)
        return True, found

    def _locked(self) -> PrismaError:
        held = "; ".join(map(reading.session_text, reading.lock_holders(self.database)))
        return PrismaError(
            f"Nothing was changed: a `prisma migrate` is under way ({held}). Wait for it, and run the same command "
            "again.",
            code="migrate_running",
        )

    def _prove(self, manifest: Manifest, found: dict[str, Any]) -> None:
        """Hold the restored database to the manifest: the rows of every table, and the history."""
        wrong = []
        there = asking.tables(self.database)
        rows = asking.count(self.database, there)
        for table, number in manifest.rows().items():
            if rows.get(table) != number:
                wrong.append(f"{names.shown(table)} has {rows.get(table, 'no')} rows, not {number}")
        place = reading.locate(self.database, self.params["schema"])
        if asking.migrations(self.database, place) != list(manifest.migrations):
            wrong.append("_prisma_migrations is not what was dumped")
        found["left"] += [
            f"{names.shown(table)} is younger than the backup and stays as it is"
            for table in there
            if table not in manifest.rows()
        ]
        if wrong:
            raise PrismaError(
                f"The dump was put back, but the database is not what was dumped: {'; '.join(wrong)}. Something wrote "
                "to it meanwhile: stop the writers, and run the same command again.",
                code="restore_unproved",
                changed=True,
            )

    def _restore_lost(self, manifest: Manifest, check: bool) -> tuple[bool, dict[str, Any]]:
        lost, words = backup.lost_tables(manifest.losses)
        only = set(self.params["tables"] or ())
        if only:
            lost = {table: what for table, what in lost.items() if only & {names.shown(table), table[1]}}
        found: dict[str, Any] = {"restored": {}, "kept": {}, "left": [f"{text}: not put back" for text in words]}
        there = {table: asking.describe(self.database, table) for table in lost}
        self._require_there(manifest, lost, there)
        if not lost:
            raise PrismaError(
                f"Nothing was changed: of what was lost nothing can be put back by itself ({'; '.join(words) or 'no'}"
                f"). Everything of then is in {os.path.join(self.folder, manifest.file)}: pg_restore --data-only "
                "--table=<table> --file=- <that file>; or take the whole database back: -e rollback_backup_restore=all",
                code="restore_nothing",
            )
        ordered = merging.parents_first([table for table in there.values() if table is not None])
        client = self.client()
        self.database.run("BEGIN")
        try:
            self._merge(manifest, client, ordered, lost, found, check)
            self.database.run("ROLLBACK" if check else "COMMIT")
        finally:
            self.database.rollback()
        return any(found["restored"].values()), found

    def _require_there(
        self,
        manifest: Manifest,
        lost: Mapping[Relation, set[str]],
        there: Mapping[Relation, merging.Table | None],
    ) -> None:
        missing = []
        for table, what in lost.items():
            described = there[table]
            if described is None:
                missing.append(f"the table {names.shown(table)}")
                continue
            missing += [
                f"the column {names.shown(table)}.{column}"
                for column in sorted(what - {""})
                if not described.column(column)
            ]
        if missing:
            raise PrismaError(
                f"Nothing was changed: {', '.join(missing)} is not there. What the rollback lost goes back into the "
                f"schema of {manifest.release_from or 'the release before it'}: deploy that (`prisma migrate deploy` "
                "makes tables and columns again), before users write to them, and run the same command again. To take "
                "the whole database back instead: -e rollback_backup_restore=all",
                code="restore_schema",
                next=f"deploy {manifest.release_from or 'the release before the rollback'}, then the same command",
            )

    def _merge(
        self,
        manifest: Manifest,
        client: backup.Client,
        ordered: Sequence[merging.Table],
        lost: Mapping[Relation, set[str]],
        found: dict[str, Any],
        check: bool,
    ) -> None:
        database = self.database
        database.execute(
            "SELECT pg_catalog.set_config('standard_conforming_strings', 'on', true), "
            "pg_catalog.set_config('lock_timeout', '10s', true)"
        )
        if not database.value(f"SELECT pg_catalog.pg_try_advisory_xact_lock({reading.LOCK})"):
            raise self._locked()
        if not check:
            # Nobody writes to them meanwhile; reading goes on.
            tables = ", ".join(names.qualified(table.relation) for table in ordered)
            self._told(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE", "the tables")
        merges = self._load(manifest, client, ordered)
        for table in ordered:
            others = {relation: merge.temp for relation, merge in merges.items()} if check else {}
            merge = merging.Merge(table, merges[table.relation].dumped, merges[table.relation].temp, others)
            self._put_back(merge, lost[table.relation], found, check)

    def _load(self, manifest: Manifest, client: backup.Client, ordered: Sequence[merging.Table]) -> dict[Relation, Any]:
        """The dump's rows of these tables in temporary tables."""
        wanted = {table.relation: table for table in ordered}
        loaded: dict[Relation, _Loaded] = {}

        def take(relation: Relation, columns: tuple[str, ...], lines: Iterator[bytes]) -> None:
            if relation not in wanted or relation in loaded:
                return
            temp = merging.temporary(len(loaded))
            self.database.run(merging.create(temp, columns))
            self.database.copy_in(temp, columns, lines)
            self.database.run(f"ANALYZE {temp}")
            loaded[relation] = _Loaded(temp, columns)

        path = os.path.join(self.folder, manifest.file)
        programs.rows(client, programs.environment(self.database), path, take)
        expected = manifest.rows()
        for relation in wanted:
            number = (
                self.database.value(f"SELECT count(*) FROM {loaded[relation].temp}") if relation in loaded else None
            )
            if number != expected.get(relation):
                raise PrismaError(
                    f"Nothing was changed: {path} holds {number or 'no'} rows of {names.shown(relation)}, and the "
                    f"manifest says {expected.get(relation)}.",
                    code="backup_damaged",
                )
        return loaded

    def _put_back(self, merge: merging.Merge, what: set[str], found: dict[str, Any], check: bool) -> None:
        shown = names.shown(merge.table.relation)
        if merge.gone:
            found["left"].append(
                f"{shown} has no column {', '.join(merge.gone)} any more: their values stay in the dump"
            )
        if "" in what:
            numbers = self._told(merge.count_rows(), shown)
            expected = numbers["missing"] - numbers["orphans"]
            done = expected if check else self._changed(merge.insert(), shown)
            if not check:
                for statement in merge.advance():
                    self._told(statement, shown)
            found["restored"][shown] = done
            if not merge.matchable and numbers["dumped"] and not numbers["missing"]:
                found["left"].append(f"{shown} has no key that tells its rows apart, and is not empty: left as it is")
            elif numbers["taken"]:
                found["kept"][shown] = numbers["taken"]
                found["left"].append(
                    f"{numbers['taken']} row{_s(numbers['taken'])} of {shown}: a row with the same "
                    f"{', '.join(merge.table.key)} and other values was written since; that one was kept"
                )
            if numbers["orphans"]:
                found["left"].append(
                    f"{numbers['orphans']} row{_s(numbers['orphans'])} of {shown}: the row they refer to is gone"
                )
            if done < expected:
                found["left"].append(
                    f"{expected - done} row{_s(expected - done)} of {shown}: a unique value of theirs was taken since"
                )
        for column in sorted(what - {""}):
            name = f"{shown}.{column}"
            if not merge.matchable:
                found["left"].append(f"{name}: {shown} has no key that tells its rows apart")
                continue
            numbers = self._told(merge.count_values(column), name)
            found["restored"][name] = numbers["free"] if check else self._changed(merge.fill(column), name)
            if numbers["taken"]:
                found["kept"][name] = numbers["taken"]
                found["left"].append(
                    f"{numbers['taken']} value{_s(numbers['taken'])} of {name} written since; those were kept"
                )

    def _told(self, statement: str, what: str) -> dict[str, Any]:
        try:
            rows = self.database.execute(statement)
            return rows[0] if rows else {}
        except DatabaseError as error:
            raise self._failed(error, what) from None

    def _changed(self, statement: str, what: str) -> int:
        try:
            return int(self.database.run(statement).rpartition(" ")[2])
        except DatabaseError as error:
            raise self._failed(error, what) from None

    def _failed(self, error: DatabaseError, what: str) -> PrismaError:
        return PrismaError(
            f"Nothing was changed: putting {what} back failed: {error.message}"
            + (f" ({error.detail})" if error.detail else "")
            + ". Mend that and run the same command again.",
            code="restore_failed",
            sqlstate=error.sqlstate,
        )


class _Loaded:
    def __init__(self, temp: str, dumped: Sequence[str]) -> None:
        self.temp = temp
        self.dumped = dumped


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


def _rows_of(manifest: Manifest) -> dict[str, int]:
    return {names.shown(table): number for table, number in manifest.rows().items()}


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def problem_fields(problem: Mapping[str, str]) -> dict[str, str]:
    return {"code": problem["code"], "next": problem["next"]}


def listed(folder: str) -> list[dict[str, Any]]:
    """Every backup under a folder, without reading the dumps."""
    found: list[dict[str, Any]] = []
    try:
        entries = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PrismaError(f"Cannot read {folder}: {error.strerror}. Use become: true for a folder of root.") from None
    for name in entries:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            found.append(_one(path, name))
    return found


def _one(path: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": name,
        "path": path,
        "at": "",
        "release_from": "",
        "release_to": "",
        "dumps": [],
        "problems": [],
    }
    for kind in (backup.FULL, backup.LOST):
        try:
            manifest = read(path, kind)
        except PrismaError as error:
            entry["problems"].append(error.message)
            continue
        if manifest is None:
            continue
        file = os.path.join(path, manifest.file)
        size = os.path.getsize(file) if os.path.exists(file) else 0
        if size != manifest.size:
            entry["problems"].append(f"{manifest.file} has {size} bytes, not {manifest.size}")
        entry.update(at=entry["at"] or manifest.at, release_from=manifest.release_from, release_to=manifest.release_to)
        entry["dumps"].append(
            {
                "kind": kind,
                "file": file,
                "size": manifest.size,
                "sha256": manifest.sha256,
                "whole": manifest.whole,
                "at": manifest.at,
                "rows": sum(manifest.rows().values()),
            }
        )
    if not entry["dumps"] and not entry["problems"]:
        entry["problems"].append("no dump was finished")
    return entry
