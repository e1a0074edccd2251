"""Whatever dies, and whenever: the database is as before or as after, and one more run brings it to the target.

Histories, scripts and places of the faults are made up from a seed, which a failure shows. More of them::

    PROPERTY_RUNS=2000 PROPERTY_SEED=100000 pytest tests/integration/prisma/test_faults.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

from .conftest import CHECKOUT, NEWEST
from .histories import Database, Migration, Writer
from .scene import wait_until
from .wire import AFTER, BEFORE, SENT, Proxy, at

# What is tested here does not depend on the server's version.
pytestmark = pytest.mark.parametrize("programs", [NEWEST], indirect=True, scope="session", ids=["newest"])

RUNS = int(os.environ.get("PROPERTY_RUNS", "4"))
SEED = int(os.environ.get("PROPERTY_SEED", "1"))
CONSENT = {"target": "v1", "confirm_data_loss": "v1"}


class Server:
    """Runs modules as the other tests' does, one at a time, so that the process of a module can be killed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("module_server.py")), path],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / "collections")},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout.readline() == b"ready\n"

    def kill_module(self) -> None:
        server = self._process.pid
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    server = Server(str(tmp_path_factory.mktemp("server") / "socket"))
    yield server
    server.close()


@pytest.fixture
def killable(stack, own_server):
    stack.server = own_server.path
    stack.kill_module = own_server.kill_module
    return stack


def roll_back(stack, keep: list[str], **args):
    """The module's result; None for a module that was killed and said nothing."""
    hung = threading.Event()

    def end() -> None:
        hung.set()
        stack.kill_module()

    watch = threading.Timer(60, end)
    watch.start()
    try:
        return stack.down(to_migrations=keep, **CONSENT, **args)
    except (json.JSONDecodeError, ConnectionError):
        assert not hung.is_set(), "it went on for a minute"
        return None
    finally:
        watch.cancel()


def wait_until_gone(database: Database) -> None:
    """A backend whose client died first finishes its statement; only then the outcome is one."""
    # The process of a module that is gone cannot start another connection, and one that answered has closed its own.
    wait_until(
        lambda: (
            database.eye.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'connectin.rollback' "
                "AND datname = current_database()"
            ).fetchone()
            == (0,)
        )
    )


class Trial:
    """One database with its history, of which everything after the first ``keep`` migrations is to go."""

    def __init__(self, stack, migrations: list[Migration], keep: int, **options) -> None:
        self.stack = stack
        self.database = Database(stack, migrations)
        names = [each.name for each in migrations]
        self.keep, self.plan = names[:keep], names[: keep - 1 : -1]
        self.options = options
        name = "20990101_competitor"
        self.competitor = Migration(name, "SELECT 1;", f"INSERT INTO witness.runs (name) VALUES ('{name}');")
        stack.write(name, self.competitor.up, self.competitor.down)
        self.deployed = False

    def build(self) -> None:
        self.database.build()
        self.deployed = False

    @property
    def each(self) -> bool:
        return self.options.get("transaction") == "each"

    def run(self, **args):
        return roll_back(self.stack, self.keep, **self.options, **args)

    def gone(self) -> list[str]:
        """The migrations that are recorded as rolled back. Nothing else in the history may have changed."""
        before, now = self.database.ledger, self.database.rows()
        if self.options.get("record") == "delete":
            now = {**{key: (row[0], True, *row[2:]) for key, row in before.items()}, **now}
        assert list(now) == list(before)
        for key, (name, _live, *rest) in before.items():
            assert now[key][0] == name and list(now[key][2:]) == rest, f"the row of {name} is another one"
        return [row[0] for row in reversed(now.values()) if row[1]]

    def judge(self, result) -> list[str]:
        """Right after the fault: before or after, or with a transaction for each migration as far as it got."""
        wait_until_gone(self.database)
        gone = self.gone()
        plan = [self.competitor.name, *self.plan] if self.competitor.name in gone else self.plan
        assert gone == plan[: len(gone)], "not the newest ones went first"
        assert self.each or len(gone) in (0, len(plan)), f"half of it is recorded: {gone}"
        assert self.database.witnesses() == sorted(gone), "what ran and what is recorded differ"
        left = len(self.keep) + len(self.plan) - len([name for name in gone if name in self.plan])
        following = next((each for each in self.database.migrations[:left][::-1]), None)
        self.same_catalog(left, following.loose if following and self.each and left > len(self.keep) else ())
        if result is not None:
            self.told(result, gone, plan)
        return gone

    def same_catalog(self, left: int, loose: tuple[str, ...] = ()) -> None:
        """What a script runs outside a transaction may be done or not before the rest of it."""

        def settled(lines):
            names = [name.strip('"').replace('""', '"') for name in loose]
            return [line for line in lines if not any(name in line[1].replace('""', '"') for name in names)]

        assert settled(self.database.catalog()) == settled(self.database.catalogs[left])

    def told(self, result, gone: list[str], plan: list[str]) -> None:
        """What the module said is what is."""
        if not result.get("failed"):
            assert gone == plan and result["applied_after"][: len(self.keep)] == self.keep, result
        elif result.get("outcome") == "unknown":
            return
        assert [each["name"] for each in result["rolled_back"]] == gone, result
        if not result["changed"]:
            assert gone == [] and self.database.catalog() == self.database.catalogs[-1], result
        elif not gone:
            # An index may be there or not there any more, although nothing is recorded yet.
            assert self.each and self.migration(plan[0]).loose, result

    def migration(self, name: str) -> Migration:
        return next(each for each in [self.competitor, *self.database.migrations] if each.name == name)

    def finish(self) -> None:
        """One more run, undisturbed, reaches the target; another one has nothing left to do."""
        result = self.run()
        assert result and not result.get("failed"), result
        plan = [self.competitor.name, *self.plan] if self.deployed else self.plan
        assert self.gone() == plan and self.database.live() == self.keep
        assert self.database.witnesses() == sorted(plan), "a script did not run exactly once"
        self.same_catalog(len(self.keep))

    def deploy(self, locked: bool) -> None:
        """A deploy, with Prisma's lock or with it disabled; it gives up where it would have to wait."""
        with psycopg.connect(
            host=str(self.stack.home), port=self.stack.port, user="app", dbname=self.stack.name, autocommit=True
        ) as connection:
            if locked and not connection.execute("SELECT pg_try_advisory_lock(72707369)").fetchone()[0]:
                return
            connection.execute("SET lock_timeout = '20ms'")
            with suppress(psycopg.errors.LockNotAvailable):
                self.database.deploy(self.competitor, connection)
                self.deployed = True
                self.database.ledger = {
                    **self.database.ledger,
                    **{key: row for key, row in self.database.rows().items() if row[0] == self.competitor.name},
                }


@contextmanager
def on_the_line(trial: Trial, fault=lambda _number, _text: None, **limits):
    """The module's connections through a proxy with this fault."""
    with Proxy(trial.stack.port, fault, **limits) as proxy:
        yield {"database_url": proxy.url(trial.stack.url)}
        assert not proxy.errors, proxy.errors


def doing(number: int, action):
    """Something happens just before PostgreSQL gets the statement of this number."""

    def fault(reached: int, _text: str) -> None:
        if reached == number:
            action()

    return fault


@contextmanager
def after_seconds(seconds: float, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield {}
    finally:
        timer.cancel()
        timer.join()


def terminate(trial: Trial) -> None:
    with psycopg.connect(
        host=str(trial.stack.home), port=trial.stack.port, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'connectin.rollback'"
        )


@contextmanager
def table_locked(trial: Trial, pick: random.Random):
    """A client that reads one of the tables and stays in its transaction."""
    tables = [
        name
        for (name,) in trial.database.eye.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'witness')"
        ).fetchall()
    ]
    table = psycopg.sql.Identifier(pick.choice(tables))
    with psycopg.connect(
        host=str(trial.stack.home), port=trial.stack.port, user="app", dbname=trial.stack.name
    ) as connection:
        connection.execute("SET search_path = public, witness")
        connection.execute(psycopg.sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))
        # What runs outside a transaction has no lock timeout.
        yield {"lock_timeout": 0.05, "retries": pick.choice((0, 1)), "statement_timeout": 0.3}


def faults(trial: Trial, pick: random.Random, clean: Proxy, seconds: float):
    """Every kind of fault, at a place made up from what an undisturbed run sent."""
    number = pick.randint(1, len(clean.statements))
    moment = pick.uniform(0, seconds)
    yield f"cut before {number}", on_the_line(trial, at(number, BEFORE))
    yield f"cut after {number}", on_the_line(trial, at(number, AFTER))
    yield f"cut while {number} runs", on_the_line(trial, at(number, SENT))
    sent, received = pick.randint(1, clean.bytes_sent), pick.randint(1, clean.bytes_received)
    yield f"cut after {sent} bytes to PostgreSQL", on_the_line(trial, sent=sent)
    yield f"cut after {received} bytes from PostgreSQL", on_the_line(trial, received=received)
    yield f"SIGKILL at {number}", on_the_line(trial, doing(number, trial.stack.kill_module))
    yield f"SIGKILL after {moment:.4f} s", after_seconds(moment, trial.stack.kill_module)
    yield f"terminated at {number}", on_the_line(trial, doing(number, lambda: terminate(trial)))
    yield f"terminated after {moment:.4f} s", after_seconds(moment, lambda: terminate(trial))
    yield f"a deploy at {number}", on_the_line(trial, doing(number, lambda: trial.deploy(locked=True)))
    yield f"a deploy without lock at {number}", on_the_line(trial, doing(number, lambda: trial.deploy(locked=False)))
    yield "a reader that stays", table_locked(trial, pick)


def undisturbed(trial: Trial) -> tuple[Proxy, float]:
    """Roll back without a fault; how that looked on the line."""
    trial.build()
    with Proxy(trial.stack.port) as proxy:
        started = time.monotonic()
        result = trial.run(database_url=proxy.url(trial.stack.url))
        seconds = time.monotonic() - started
    assert trial.judge(result) == trial.plan, result
    assert not trial.run()["changed"]
    return proxy, seconds


@contextmanager
def shown(text: str):
    """A failure says how to have it again."""
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise


MODES = pytest.mark.parametrize("transaction", ["all", "each"])
KINDS = 12


@MODES
@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_after_any_fault_and_one_more_run_it_is_the_target_and_no_script_ran_twice(killable, seed, transaction):
    pick = random.Random(f"{seed} {transaction}")
    marked = transaction == "each"
    migrations = Writer(pick, marked=marked).migrations(pick.randint(3, 7))
    keep = pick.randint(1, len(migrations) - 1)
    options = {
        "transaction": transaction,
        "record": pick.choice(("mark", "mark", "delete")),
        "without": pick.choice(((), ("psycopg",))),
    }
    trial = Trial(killable, migrations, keep, **options)
    with shown(f"PROPERTY_SEED={seed} PROPERTY_RUNS=1, {options}, keeps {keep} of {len(migrations)}"):
        clean, seconds = undisturbed(trial)
        # All kinds come in turn.
        wanted = {(seed * 3 + number) % KINDS for number in range(3)}
        kinds = list(faults(trial, pick, clean, seconds))
        assert len(kinds) == KINDS
        for number in sorted(wanted):
            name, fault = kinds[number]
            with shown(f"the fault: {name}"):
                trial.build()
                with fault as args:
                    result = trial.run(**args)
                trial.judge(result)
                trial.finish()


INDEX = [
    Migration("1_init", "CREATE TABLE kept (id int);", "DROP TABLE kept;"),
    Migration(
        "2_index",
        "CREATE INDEX quick ON kept (id);",
        "-- rollback: no-transaction\nDROP INDEX CONCURRENTLY quick;\nINSERT INTO witness.runs VALUES ('2_index');",
        ("quick",),
    ),
    Migration(
        "3_no_index",
        "DROP INDEX quick;",
        "-- rollback: no-transaction\nCREATE INDEX CONCURRENTLY quick ON kept (id);\n"
        "INSERT INTO witness.runs VALUES ('3_no_index');",
        ("quick",),
    ),
]


def places(statement: str) -> tuple[str, ...]:
    """Where a statement is cut. To PostgreSQL "before" is "after" the one before it, so that is kept for long runs,
    but for those that change what another session sees."""
    if "PROPERTY_RUNS" in os.environ or statement == "COMMIT" or "CONCURRENTLY" in statement:
        return BEFORE, AFTER, SENT
    return (AFTER,)


@MODES
def test_wherever_the_line_is_cut_it_is_before_or_after_and_one_more_run_finishes(killable, transaction):
    migrations = [
        Migration("1_init", "CREATE TABLE kept (id int);", "DROP TABLE kept;"),
        Migration(
            "2_table",
            "CREATE TABLE gone (id int); INSERT INTO gone VALUES (1);",
            "DROP TABLE gone; INSERT INTO witness.runs VALUES ('2_table');",
        ),
        Migration(
            "3_column",
            "ALTER TABLE kept ADD COLUMN more text;",
            "ALTER TABLE kept DROP COLUMN more; INSERT INTO witness.runs VALUES ('3_column');",
        ),
    ]
    if transaction == "each":
        # The index is dropped outside the transaction after the column is gone inside of one.
        migrations[1] = INDEX[1]
    trial = Trial(killable, migrations, 1, transaction=transaction)
    clean, _seconds = undisturbed(trial)
    trial.build()
    untouched = ((), tuple(trial.database.catalog()))
    # From each state that a fault leaves one more run is made, once: what it is reached by leaves nothing else behind.
    finished = {untouched}
    for number in range(1, len(clean.statements) + 1):
        for when in places(clean.statements[number - 1]):
            with shown(f"cut at {number}, {clean.statements[number - 1]!r}: {when}"):
                with Proxy(killable.port, at(number, when)) as proxy:
                    result = trial.run(database_url=proxy.url(killable.url))
                    assert proxy.cut
                state = (tuple(trial.judge(result)), tuple(trial.database.catalog()))
                if state not in finished:
                    trial.finish()
                    finished.add(state)
                if state != untouched:
                    trial.build()
    assert len(finished) == (4 if trial.each else 2), "no fault left anything half done"
    trial.finish()


def test_wherever_a_deploy_without_lock_comes_between_it_is_waited_out_or_planned_with_or_refused(killable):
    trial = Trial(killable, Writer(random.Random(7)).migrations(2), 1, transaction="all")
    clean, _seconds = undisturbed(trial)
    finished = set()
    for number in range(1, len(clean.statements) + 1):
        with shown(f"a deploy at {number}, {clean.statements[number - 1]!r}"):
            trial.build()
            deploying = doing(number, lambda: trial.deploy(locked=False))
            with on_the_line(trial, deploying) as args:
                result = trial.run(**args)
            gone = trial.judge(result)
            if trial.deployed and trial.competitor.name not in gone:
                # Planned without it: before the commit that is refused.
                assert result.get("failed") or number > clean.statements.index("COMMIT") + 1, result
            outcome = (tuple(gone), trial.deployed)
            if outcome not in finished:
                finished.add(outcome)
                trial.finish()
    plan, everything = tuple(trial.plan), (trial.competitor.name, *trial.plan)
    assert finished == {(everything, True), ((), True), (plan, False), (plan, True)}


@pytest.mark.parametrize("how", ["terminated", "SIGKILL", "statement_timeout"])
@pytest.mark.parametrize("history", [INDEX[:2], INDEX], ids=["dropped", "built"])
def test_an_index_that_is_left_half_way_is_dropped_or_built_by_one_more_run(killable, history, how):
    trial = Trial(killable, history, len(history) - 1, transaction="each")
    trial.build()
    writer = killable.connect(user="app")
    # Both wait for those who write, with the index there and invalid.
    writer.execute("BEGIN; INSERT INTO kept VALUES (1)")
    found = []
    args = {"statement_timeout": 0.5} if how == "statement_timeout" else {}
    running = threading.Thread(target=lambda: found.append(trial.run(**args)))
    running.start()

    def half_way() -> bool:
        return trial.database.eye.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('quick')"
        ).fetchall() == [(False,)]

    wait_until(half_way)
    if how == "terminated":
        terminate(trial)
    elif how == "SIGKILL":
        killable.kill_module()
    running.join(60)
    assert not running.is_alive()
    # Here a killed module's server process still waits for the writer; the others have left an invalid index.
    assert half_way()
    writer.execute("ROLLBACK")
    (result,) = found
    trial.judge(result)
    assert how == "SIGKILL" or result["failed"] and result["changed"], "an invalid index stayed, and it was not said"
    trial.finish()
