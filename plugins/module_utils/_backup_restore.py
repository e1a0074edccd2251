# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups put back: what a rollback lost, or the whole database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _backup as backup
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_database as asking
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_files as files
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_merge as merging
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_programs as programs
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Manifest
from ansible_collections.connectin.rollback.plugins.module_utils._backup_work import Work
from ansible_collections.connectin.rollback.plugins.module_utils._connection import DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


class Restore(Work):
    """One call of the module with ``state=restored``."""

    def restore(self, check: bool) -> tuple[bool, Manifest, dict[str, Any]]:
        """Put the backup back. Returns whether anything changed, the manifest, and ``restored``, ``kept``, ``left``."""
        kind = backup.FULL if self.params["what"] == "all" else backup.LOST
        manifest = files.require(self.folder, kind)
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


def _rows_of(manifest: Manifest) -> dict[str, int]:
    return {names.shown(table): number for table, number in manifest.rows().items()}


def _s(number: int) -> str:
    return "" if number == 1 else "s"
