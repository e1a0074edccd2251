# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Down scripts and their bookkeeping in one transaction that excludes every ``prisma migrate deploy``."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_measure as measure
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_outside as outside
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_plan as planning
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_loss, _sql_names, _sql_script
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database, DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_database import Place
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import Row
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_plan import Plan, Step

RETRIED = frozenset(("55P03", "40P01", "40001"))
POLL = 0.2


class Clock(Protocol):
    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True)
class Options:
    """How to go about it; seconds, 0 for no limit."""

    target: str = ""
    confirm_data_loss: str = ""
    backup: Mapping[str, Any] | None = None
    record: str = "mark"
    lock_wait: float = 30
    lock_timeout: float = 5
    statement_timeout: float = 0
    retries: int = 5
    transaction: str = "all"
    require_no_sessions: bool = False
    sessions_wait: float = 10


@dataclass(frozen=True)
class Outcome:
    """What was committed. ``plan`` holds the losses as they were counted under the locks."""

    plan: Plan
    rolled_back: tuple[dict[str, Any], ...]


class _SessionsLeft(Exception):
    """A client came between the check and the transaction."""


class _HistoryChanged(Exception):
    pass


def losses_of(database: Database, place: Place, steps: Sequence[Step]) -> dict[str, list[dict[str, Any]]]:
    """What each step destroys, counted now; read in the order in which the scripts run."""
    reader = _sql_loss.Reader(place.current_schema)
    return reading.count(database, place, {step.name: _read(reader, step) for step in steps})


def _read(reader: _sql_loss.Reader, step: Step) -> list[_sql_loss.Loss]:
    if step.script is None or not step.statements:
        return []
    if step.script.tree is None:
        return [_sql_loss.unknown("pglast is not on the host that reads the script: what it destroys is unknown")]
    return reader.read(step.script.tree)


def wait_for_no_sessions(database: Database, seconds: float, clock: Clock) -> None:
    """Wait until nobody else is connected to the database, or say who is."""
    deadline = clock.monotonic() + seconds
    while True:
        found = reading.sessions(database)
        if not found:
            return
        if clock.monotonic() >= deadline:
            raise PrismaError(
                f"Nothing was changed, because {len(found)} other session{'s are' if len(found) > 1 else ' is'} "
                f"connected to "
                f"{database.target.params['dbname']} after {seconds:g} s: "
                f"{'; '.join(map(reading.session_text, found))}. "
                "Stop what is connected (the writers of every host, migrations, consoles) and run this again.",
                sessions=found,
            )
        clock.sleep(POLL)


class Transaction:
    """One rollback. ``connect`` opens another connection: to look what became of a COMMIT that was cut off, and for
    statements outside the transaction. ``database`` is the connection in use, another one after such a COMMIT;
    ``warnings`` are for the operator, also after a failure.
    """

    def __init__(
        self,
        database: Database,
        place: Place,
        rows: Sequence[Row],
        options: Options,
        clock: Clock,
        connect: Callable[[], Database],
    ) -> None:
        self.database = database
        self._place = place
        self._rows = list(rows)
        self._options = options
        self._clock = clock
        self._connect = connect
        self.warnings: list[str] = []
        # The tables that are in the backup; None where all are, or where no backup was wanted.
        self._dumped: set[int] | None = None
        # What reading each script says, and what else it did.
        self._read = measure.NOTHING
        self._surprises: dict[str, list[dict[str, Any]]] = {}
        self._first: dict[int, measure.Table] = {}
        self._tables: dict[int, measure.Table] = {}
        self._shape: dict[str, Any] | None = None
        # What took effect outside the transaction of the script under way, and stays.
        self._kept: list[str] = []

    def roll_back(self, plan: Plan) -> Outcome:
        """Run the plan, in one transaction or in one for each migration; what is committed stays when a later one
        fails, and is in the error's fields."""
        backup = self._options.backup
        if backup and not backup.get("whole"):
            # By oid: a migration that goes down before another one may rename what is dumped.
            tables = [(table["schema"], table["name"]) for table in backup.get("tables") or ()]
            self._dumped = {oid for oids in reading.family(self.database, self._place, tables).values() for oid in oids}
        if self._options.transaction == "all":
            return self._until_done(plan)
        done: list[dict[str, Any]] = []
        losses: dict[str, Sequence[Mapping[str, Any]]] = {}
        for step in plan.steps:
            try:
                if not self.database.alive:
                    self.database = self._connect()
                outcome = self._until_done(replace(plan, steps=(step,)))
            except PrismaError as error:
                raise self._after_some(error, done) from None
            done.extend(outcome.rolled_back)
            losses.update(outcome.plan.losses)
        return Outcome(replace(plan, losses=losses), tuple(done))

    def _after_some(self, error: PrismaError, done: Sequence[Mapping[str, Any]]) -> PrismaError:
        """The failure of one migration, told with what is committed already."""
        text = error.message
        fields = dict(error.fields)
        if self._kept:
            # These are not undone with the rest.
            kept = "; ".join(self._kept)
            text = text.replace("Nothing was changed", f"Nothing was recorded, and this stays ({kept})", 1)
            fields["changed"] = True
        if done:
            names = ", ".join(str(each["name"]) for each in done)
            text = text.replace("Nothing was changed", "Nothing else was changed", 1)
            text = f"{names}: rolled back and recorded, each by itself. {text}"
            fields.update(changed=True, rolled_back=list(done))
        if self._kept or done:
            text += " Run this again to go on from there."
        return PrismaError(text, **fields)

    def _until_done(self, plan: Plan) -> Outcome:
        """Run the steps in one transaction, again from the start when a lock was not to be had."""
        attempt = 0
        self._kept = []
        deadline = self._clock.monotonic() + self._options.sessions_wait
        while True:
            try:
                if self._options.require_no_sessions:
                    wait_for_no_sessions(self.database, self._options.sessions_wait, self._clock)
                return self._attempt(plan)
            except _HistoryChanged:
                self.database.rollback()
                raise PrismaError(
                    "Nothing was changed, because the history changed while this waited for its lock (a deploy or "
                    "another rollback was under way). Plan again."
                ) from None
            except _SessionsLeft:
                self.database.rollback()
                if self._clock.monotonic() >= deadline:
                    wait_for_no_sessions(self.database, 0, self._clock)
            except DatabaseError as error:
                self.database.rollback()
                if error.sqlstate not in RETRIED or attempt >= self._options.retries or not self.database.alive:
                    raise self._failure(error) from None
                attempt += 1
                # Jitter keeps two that met once from meeting again.
                self._clock.sleep(min(8.0, 0.25 * 2**attempt) * random.uniform(0.5, 1.0))
            except PrismaError:
                self.database.rollback()
                raise

    def mark_applied(self, names_and_checksums: Sequence[tuple[str, str]]) -> None:
        """What ``prisma migrate resolve --applied`` does, also where Prisma refuses it (P3008) after a rollback."""
        try:
            self._begin()
            table = self._place.table_beside_parameters
            for name, checksum in names_and_checksums:
                self.database.execute(
                    f"UPDATE {table} SET rolled_back_at = pg_catalog.clock_timestamp() "
                    "WHERE migration_name = %s AND finished_at IS NULL AND rolled_back_at IS NULL",
                    [name],
                )
                self.database.execute(
                    f"INSERT INTO {table} (id, checksum, finished_at, migration_name, logs, started_at, "
                    "applied_steps_count) SELECT %s, %s, t, %s, '', t, 0 FROM (SELECT pg_catalog.clock_timestamp() "
                    "AS t) AS now",
                    [str(uuid.uuid4()), checksum, name],
                )
            self._commit(self._xid())
        except _HistoryChanged:
            self.database.rollback()
            raise PrismaError("Nothing was changed, because the history changed meanwhile. Run this again.") from None
        except DatabaseError as error:
            self.database.rollback()
            raise self._failure(error) from None
        except PrismaError:
            self.database.rollback()
            raise

    def _begin(self) -> None:
        """Open the transaction, take Prisma's lock and the table, and see that the history is what was planned on."""
        self._take_lock()
        self._assert_settings()
        self.database.run(f"LOCK TABLE {self._place.table} IN SHARE ROW EXCLUSIVE MODE")
        if reading.read_rows(self.database, self._place) != self._rows:
            raise _HistoryChanged

    def _take_lock(self) -> None:
        deadline = self._clock.monotonic() + self._options.lock_wait
        while True:
            # A new transaction per try: one that blocked would hold a snapshot, on which CREATE INDEX CONCURRENTLY
            # waits.
            self.database.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            if reading.try_lock(self.database):
                return
            holders = reading.lock_holders(self.database)
            self.database.run("ROLLBACK")
            if self._clock.monotonic() >= deadline:
                who = "; ".join(map(reading.session_text, holders)) or "a session that has gone since"
                raise PrismaError(
                    f"Nothing was changed, because Prisma's migration lock ({reading.LOCK}) is still held after "
                    f"{self._options.lock_wait:g} s by {who}. A deploy is running, or its process hangs: let it "
                    f"finish, or stop it, "
                    "and run this again.",
                    lock_holders=holders,
                )
            self._clock.sleep(POLL)

    def _assert_settings(self) -> None:
        """A script may have changed any setting: all are put back before the next one."""
        self.database.run("RESET SESSION AUTHORIZATION")
        self.database.run("RESET ROLE")
        self.database.run("RESET ALL")
        # A role may have another default, by which scripts would be read otherwise than they were checked.
        self.database.run("SET LOCAL standard_conforming_strings = on")
        # Row security would hide a row of the history instead of failing.
        self.database.run("SET LOCAL row_security = off")
        self.database.run(f"SET LOCAL lock_timeout = {int(self._options.lock_timeout * 1000)}")
        self.database.run(f"SET LOCAL statement_timeout = {int(self._options.statement_timeout * 1000)}")
        reading.set_search_path(self.database, self._place)

    def _xid(self) -> int:
        return int(self.database.value("SELECT pg_catalog.txid_current()"))

    def _attempt(self, plan: Plan) -> Outcome:
        self._begin()
        if self._options.require_no_sessions and reading.sessions(self.database):
            raise _SessionsLeft
        for step in plan.steps:
            if step.outside:
                self._outside(step)
        plan = self._counted_again(plan)
        self._shape = reading.shape(self.database, self._place)
        xid = self._xid()
        done = [self._step(step, xid) for step in plan.steps]
        plan = self._with_surprises(plan)
        waiters = reading.lock_waiters(self.database)
        if waiters:
            self._warn(
                f"pid {', '.join(map(str, waiters))} waits for Prisma's lock: a deploy that may apply these "
                "migrations again now"
            )
        # What is deferred happens now, and then the history has to be what it is to be.
        self.database.run("SET CONSTRAINTS ALL IMMEDIATE")
        rows = reading.read_rows(self.database, self._place)
        self._require_as_planned(plan, rows)
        self._commit(xid)
        self._rows = rows
        return Outcome(plan, tuple(done))

    def _with_surprises(self, plan: Plan) -> Plan:
        """The plan with what was lost and no statement says, which needs consent as well."""
        surprises = {name: entries for name, entries in self._surprises.items() if entries}
        if surprises:
            going = [step.name for step in plan.steps]
            losses = {name: [*plan.losses.get(name, ()), *surprises.get(name, ())] for name in going}
            plan = replace(plan, losses=losses)
            planning.require_consent(plan, self._options.target, self._options.confirm_data_loss)
            self._require_dumped(plan)
            for name, entries in surprises.items():
                for entry in entries:
                    self._warn(f"{name}: {entry['text']}, which no statement of its down.sql says")
                    del entry["oid"]
        return plan

    def _require_as_planned(self, plan: Plan, rows: Sequence[Row]) -> None:
        """Every row that goes is marked or deleted, and every other one is what it was."""
        now = {row.id: row for row in rows}
        going = {identity: step.name for step in plan.steps for identity in step.ids}
        wrong = ""
        for row in self._rows:
            left = now.pop(row.id, None)
            if row.id in going:
                right = left is None or not left.live and replace(left, rolled_back_at=row.rolled_back_at) == row
            else:
                right = left == row
            if not right:
                wrong = going.get(row.id, row.migration_name)
        if wrong or now or reading.shape(self.database, self._place) != self._shape:
            name = wrong or plan.steps[-1].name
            raise PrismaError(
                f"Nothing was changed, because the rows of {name} in {reading.TABLE} are not what was recorded: a "
                "trigger or rule on that table interferes.",
                failed_migration=name,
            )

    def _warn(self, text: str) -> None:
        # A transaction that is tried again warns once.
        if text not in self.warnings:
            self.warnings.append(text)

    def _outside(self, step: Step) -> None:
        """Run the statements that no transaction can hold, over a connection of their own; this one keeps the locks.

        It holds no snapshot meanwhile, for which CREATE INDEX CONCURRENTLY would wait.
        """
        self.database.run("SET LOCAL idle_in_transaction_session_timeout = 0")
        worker = self._connect()
        try:
            outside.prepare(worker, self._place, self._options.statement_timeout)
            for statement, what in step.outside:
                line = f"{step.script.path}, line {statement.line}"
                try:
                    if outside.is_done(worker, what, self.database, self._options.lock_wait):
                        self._warn(f"{line}: its effect was there already, so it did not run (again)")
                        continue
                    # Also where it fails or its answer is lost, it may have done something that stays.
                    self._kept.append(line)
                    outside.run(worker, self.database, statement.text, self._options.lock_wait)
                except DatabaseError as error:
                    raise _located(error, step, statement) from None
        finally:
            worker.close()

    def _counted_again(self, plan: Plan) -> Plan:
        """Count under the locks that the scripts need anyway: from here on nothing can be added to what is lost."""
        reader = _sql_loss.Reader(self._place.current_schema)
        found = [(step, _read(reader, step)) for step in plan.steps]
        for loss in (each for _step, losses in found for each in losses):
            self._lock_table(loss)
        self._surprises = {}
        every = [loss for _step, losses in found for loss in losses]
        self._first = self._tables = measure.tables(self.database, self._place)
        self._read = measure.expected(self.database, self._place, every, reader.updated, reader.altered, self._first)
        counted = reading.count(self.database, self._place, {step.name: losses for step, losses in found})
        plan = replace(plan, losses=counted)
        planning.require_consent(plan, self._options.target, self._options.confirm_data_loss)
        self._require_dumped(plan)
        return plan

    def _require_dumped(self, plan: Plan) -> None:
        """Refuse to lose what is in no dump."""
        if self._dumped is None:
            return
        entries = [entry for losses in plan.losses.values() for entry in losses]
        kept = reading.outside(
            self.database, self._place, [entry["relation"] for entry in entries if "oid" not in entry], self._dumped
        )
        missing = [
            entry["text"]
            for entry in entries
            if (entry["oid"] not in self._dumped if "oid" in entry else entry["relation"] in ("", *kept))
        ]
        if missing:
            raise PrismaError(
                "Nothing was changed, because the backup does not hold all of what would be lost: "
                f"{'; '.join(missing)}. Run it again: the next plan counts, and dumps, what is there now.",
                code="backup_incomplete",
            )

    def _lock_table(self, loss: _sql_loss.Loss) -> None:
        if loss.relation is None:
            return
        table = _sql_names.qualified(loss.relation)
        if self.database.value(
            "SELECT relkind IN ('r', 'p') FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", [table]
        ):
            mode = "SHARE ROW EXCLUSIVE" if loss.kind in ("delete", "update") else "ACCESS EXCLUSIVE"
            self.database.run(f"LOCK TABLE {table} IN {mode} MODE")

    def _step(self, step: Step, xid: int) -> dict[str, Any]:
        started = self._clock.monotonic()
        before = reading.read_rows(self.database, self._place)
        self._assert_settings()
        self.database.take_notices()
        for statement in step.statements:
            try:
                self.database.run(statement.text, single=True)
            except DatabaseError as error:
                raise _located(error, step, statement) from None
            xid_now, reads_alike = self._state() if self.database.in_transaction else (None, True)
            if xid_now != xid:
                raise PrismaError(
                    f"{step.name}: {step.script.path}, line {statement.line}, ended the transaction that was to undo "
                    f"everything "
                    "together. What ran before it is committed, and the history still says applied: compare the "
                    "database by hand.",
                    failed_migration=step.name,
                    file=step.script.path,
                    line=statement.line,
                    changed=True,
                )
            if not reads_alike:
                raise PrismaError(
                    f"Nothing was changed, because {step.script.path}, line {statement.line}, sets "
                    "standard_conforming_strings or client_encoding, by which the rest of it would be read as another "
                    "script than the one that was checked. Take that out.",
                    failed_migration=step.name,
                    file=step.script.path,
                    line=statement.line,
                )
        if step.statements:
            self._settle(step)
        self._assert_settings()
        by_script = self._record(step, before)
        if step.verify is not None:
            self._verify(step, step.verify)
        return {
            "name": step.name,
            "ids": list(step.ids),
            "sql_sha256": step.script.sha256 if step.script else "",
            "statements": len(step.outside) + len(step.statements),
            "duration_ms": int((self._clock.monotonic() - started) * 1000),
            "notices": self.database.take_notices(),
            "recorded_by": "script" if by_script else "module",
        }

    def _verify(self, step: Step, verify: _sql_script.Script) -> None:
        """Run verify.sql, which has to return true; whatever it does is undone, and writing fails."""
        self.database.run("SAVEPOINT connectin_verify")
        self.database.run("SET LOCAL transaction_read_only = on")
        for statement in verify.statements:
            try:
                rows = self.database.answers(statement.text)
            except DatabaseError as error:
                raise _located(error, step, statement, verify) from None
            for row in rows:
                false = [name for name, value in row if value is None or value is False]
                if false:
                    raise PrismaError(
                        f"Nothing was changed, because {verify.path}, line {statement.line}, says that {step.name} is "
                        f"not undone: {', '.join(false)} is not true.",
                        failed_migration=step.name,
                        file=verify.path,
                        line=statement.line,
                        statement=statement.text,
                    )
        self.database.run("ROLLBACK TO SAVEPOINT connectin_verify")
        self.database.run("RELEASE SAVEPOINT connectin_verify")
        self._assert_settings()

    def _settle(self, step: Step) -> None:
        """End what a script may have left for later, and see what it did besides what it says."""
        try:
            # What is deferred to the commit would fail there, without a word about which script it was.
            self.database.run("SET CONSTRAINTS ALL IMMEDIATE")
        except DatabaseError as error:
            raise _located(error, step, None) from None
        # A cursor that is held is read to its end by the commit, with all that its functions do.
        self.database.run("CLOSE ALL")
        self._assert_settings()
        # The next script means the table and not a temporary one of this one.
        self.database.run("DISCARD TEMP")
        if reading.shape(self.database, self._place) != self._shape:
            raise PrismaError(
                f"Nothing was changed, because {step.script.path} changes the table {reading.TABLE} itself, its "
                f"triggers, rules or policies, so that {step.name} could not be recorded safely. Take that out.",
                failed_migration=step.name,
                file=step.script.path,
            )
        tables = measure.tables(self.database, self._place)
        self._surprises[step.name] = measure.surprises(
            self._first, self._tables, tables, self._read, lambda oid: measure.is_empty(self.database, oid)
        )
        self._tables = tables

    def _state(self) -> tuple[int | None, bool]:
        """After a statement: the transaction's id, and whether the next one will be read as it was checked."""
        row = self.database.execute(
            "SELECT pg_catalog.txid_current_if_assigned() AS xid, "
            "pg_catalog.current_setting('standard_conforming_strings') = 'on' "
            "AND pg_catalog.current_setting('client_encoding') = 'UTF8' AS alike"
        )[0]
        return (None if row["xid"] is None else int(row["xid"])), bool(row["alike"])

    def _record(self, step: Step, before: Sequence[Row]) -> bool:
        """Mark or delete the rows of the migration. True if the script had done so; it may touch no other row."""
        ids = set(step.ids)
        now = reading.read_rows(self.database, self._place)
        after = {row.id: row for row in now}
        for row in before:
            found = after.pop(row.id, None)
            own = row.id in ids and (found is None or replace(found, rolled_back_at=None) == row)
            if found != row and not own:
                raise PrismaError(
                    f"Nothing was changed, because {step.script.path} changes the history of {row.migration_name} in "
                    f"{reading.TABLE}, which is not its own. Take that statement out.",
                    failed_migration=step.name,
                    file=step.script.path,
                )
        if after:
            raise PrismaError(
                f"Nothing was changed, because {step.script.path} adds rows to {reading.TABLE}. Take that statement "
                f"out.",
                failed_migration=step.name,
                file=step.script.path,
            )
        left = [row for row in now if row.id in ids and row.live]
        if left:
            condition = "WHERE id = ANY(%s) AND rolled_back_at IS NULL RETURNING id"
            table = self._place.table_beside_parameters
            verb = f"UPDATE {table} SET rolled_back_at = pg_catalog.clock_timestamp()"
            if self._options.record == "delete":
                verb = f"DELETE FROM {table}"
            written = self.database.execute(f"{verb} {condition}", [[row.id for row in left]])
            if len(written) != len(left):
                raise PrismaError(
                    f"Nothing was changed, because {len(left)} rows of {step.name} were to be recorded and "
                    f"{len(written)} were: "
                    f"a trigger or rule on {reading.TABLE} interferes.",
                    failed_migration=step.name,
                )
        return bool(step.script) and not left

    def _commit(self, xid: int) -> None:
        try:
            tag = self.database.run("COMMIT")
        except DatabaseError as error:
            if not error.lost:
                raise
            self._look(xid, error)
            return
        if tag != "COMMIT":
            raise PrismaError("Nothing was changed: PostgreSQL answered COMMIT with ROLLBACK.")

    def _look(self, xid: int, error: DatabaseError) -> None:
        """The connection died in COMMIT: ask the server, which keeps every transaction's end, how it went."""
        deadline = self._clock.monotonic() + max(10.0, self._options.lock_wait)
        status = None
        while status in (None, "in progress") and self._clock.monotonic() < deadline:
            try:
                database = self._connect()
                try:
                    status = database.value("SELECT pg_catalog.txid_status(%s::bigint)", [xid])
                finally:
                    database.close()
            except DatabaseError:
                status = None
            if status not in ("committed", "aborted"):
                self._clock.sleep(POLL)
        if status == "committed":
            self.warnings.append(
                f"the connection was lost during COMMIT ({error.message}); the server says that it committed"
            )
            return
        if status == "aborted":
            raise PrismaError(
                f"Nothing was changed: the connection was lost during COMMIT ({error.message}), and the server says "
                f"that it did "
                "not commit. Run this again.",
                outcome="aborted",
            )
        raise PrismaError(
            f"Unknown whether anything was changed: the connection was lost during COMMIT ({error.message}), and the "
            f"server cannot "
            f"be asked. When it answers again: SELECT txid_status({xid});",
            outcome="unknown",
            # Nobody may act as if the database still were what it was.
            changed=True,
        )

    def _failure(self, error: DatabaseError) -> PrismaError:
        """The whole transaction is undone; say where it stopped and what helps."""
        where = ""
        if "file" in error.fields:
            name, line = error.fields["failed_migration"], error.fields["line"]
            where = f"{name}: {error.fields['file']}" + (f", line {line}" if line else "") + ": "
        text = f"Nothing was changed. {where}{error.message}"
        if error.sqlstate:
            text += f" (SQLSTATE {error.sqlstate})"
        for part in (error.detail, error.hint, "" if error.hint else ADVICE.get(error.sqlstate, "")):
            if part:
                text += f". {part.rstrip('.')}"
        if error.lost:
            text += ". The connection was lost before COMMIT, so the server undoes it"
        return PrismaError(
            text + ".",
            **{
                "sqlstate": error.sqlstate,
                "message": error.message,
                "detail": error.detail,
                **error.fields,
            },
        )


ADVICE = {
    "55P03": "Another session holds the lock: end it, or give a longer lock_timeout",
    "57014": "It took longer than statement_timeout",
    "25001": "The statement cannot run inside a transaction",
    "25006": "The database is read-only: give the URL of the primary",
    "2BP01": "Something else depends on it: drop that first in the script, after a look at what it is",
    "42501": "The role of the URL lacks the privilege: it has to own the tables, and to write _prisma_migrations",
    "55P04": "A new enum value cannot be used in the transaction that adds it",
}


def _located(
    error: DatabaseError,
    step: Step,
    statement: _sql_script.Statement | None,
    script: _sql_script.Script | None = None,
) -> DatabaseError:
    """The error with the migration, file, line and statement it belongs to."""
    line = 0
    script = script or step.script
    if statement is not None:
        # PostgreSQL counts from 1, and from the start of the statement.
        line = _sql_script.line_at(script.text, statement.offset + max(0, error.position - 1))
    error.fields.update(
        failed_migration=step.name,
        file=script.path,
        line=line,
        statement=statement.text if statement else "SET CONSTRAINTS ALL IMMEDIATE",
    )
    return error
