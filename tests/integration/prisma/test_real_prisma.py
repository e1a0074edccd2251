"""Histories made by Prisma itself: rolled back, deployed again, resolved, and deployed meanwhile."""

from __future__ import annotations

import hashlib

import pytest

from .conftest import DATABASE, DISTRIBUTION, LEDGER, NEWEST
from .prisma_command import ENGINES, Prisma
from .scene import INIT, REACTIONS, RENAME, in_background, refused, wait_until

CLI, ENGINE_7_9 = ENGINES
HALF = "20260104_half"
ALL = [INIT[0], RENAME[0], REACTIONS[0]]


def engines(*versions):
    return pytest.mark.parametrize("engine", versions, indirect=True, ids=[f"prisma-{each}" for each in versions])


every_engine = engines(*ENGINES)
# Where the versions do not differ: the one that starts in a fifth of the time.
newer_engine = engines(ENGINE_7_9)
cli_only = pytest.mark.parametrize("programs", [DISTRIBUTION], indirect=True, ids=[f"postgresql-{DISTRIBUTION}"])


@pytest.fixture
def engine(request):
    """Where a test names none: the CLI on the older PostgreSQL, the newer engine on the newer one."""
    newest = request.node.callspec.params["programs"] == NEWEST
    return getattr(request, "param", ENGINE_7_9 if newest else CLI)


@pytest.fixture
def prisma(engine, stack, tmp_path):
    """Prisma, on an empty database: it makes its own table."""
    stack.sql("DROP TABLE _prisma_migrations")
    return Prisma(engine, tmp_path / "prisma", stack.url)


@pytest.fixture
def deployed(prisma, stack):
    """Three releases' worth of migrations, deployed, and a row of data."""
    for migration in (INIT, RENAME, REACTIONS):
        stack.write(*migration)
    assert prisma.deploy(stack.folder).names == ALL
    stack.sql("INSERT INTO users VALUES (1, 'Ada')")
    return stack


@pytest.fixture
def first_release(stack, tmp_path):
    """The folder of the release that has the first migration only."""
    return stack.write(*INIT, folder=tmp_path / "v1").parent


def rows(stack, table="_prisma_migrations"):
    """Each row: its name, whether it is finished, whether it is rolled back; oldest first."""
    return stack.sql(
        f"SELECT migration_name, finished_at IS NOT NULL, rolled_back_at IS NOT NULL FROM {table} "
        "ORDER BY started_at, migration_name"
    )


def applied(*names):
    return [(name, True, False) for name in names]


def gone(*names):
    return [(name, True, True) for name in names]


def at_first_release(stack):
    return (
        stack.tables() == ["users"]
        and stack.columns("users") == ["id", "name"]
        and stack.sql("SELECT * FROM users") == [(1, "Ada")]
    )


def at_last_release(stack):
    return (
        stack.tables() == ["reactions", "users"]
        and stack.columns("users") == ["id", "full_name"]
        and stack.sql("SELECT * FROM users") == [(1, "Ada")]
    )


@newer_engine
def test_the_table_and_the_rows_are_those_that_the_other_tests_make(deployed):
    def table():
        return deployed.sql(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(adbin, adrelid), "
            "(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = attrelid AND contype = 'p') "
            "FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
            "WHERE attrelid = '_prisma_migrations'::regclass AND attnum > 0 ORDER BY attnum"
        )

    def row():
        return deployed.sql(
            "SELECT length(id), checksum, finished_at >= started_at, migration_name, logs, rolled_back_at, "
            "applied_steps_count FROM _prisma_migrations WHERE migration_name = %s",
            INIT[0],
        )

    found = table(), row()
    deployed.sql("DROP TABLE _prisma_migrations")
    deployed.sql(LEDGER)
    deployed.row(*INIT[:2])
    assert found == (table(), row())


@every_engine
@pytest.mark.parametrize("record", ["mark", "delete"])
def test_after_a_rollback_the_older_release_has_nothing_to_deploy_and_the_newer_one_deploys_again(
    deployed, prisma, first_release, record
):
    result = deployed.down(to_migrations=[INIT[0]], record=record)
    assert result["changed"] and [each["name"] for each in result["rolled_back"]] == [REACTIONS[0], RENAME[0]]
    left = gone(RENAME[0], REACTIONS[0]) if record == "mark" else []
    assert rows(deployed) == applied(INIT[0]) + left and at_first_release(deployed)

    before = deployed.state()
    older = prisma.deploy(first_release)
    assert older.done and older.names == [] and deployed.state() == before

    newer = prisma.deploy(deployed.folder)
    assert newer.done and newer.names == [RENAME[0], REACTIONS[0]]
    assert rows(deployed) == applied(INIT[0]) + left + applied(RENAME[0], REACTIONS[0]) and at_last_release(deployed)
    history = deployed.info()
    assert history["applied"] == ALL and {each["checksum_ok"] for each in history["migrations"]} == {True}


@pytest.mark.parametrize("record", ["mark", "delete"])
def test_what_prismas_status_says_after_a_rollback(deployed, prisma, first_release, record):
    assert deployed.down(REACTIONS[0], record=record)["changed"]
    assert deployed.live() == ALL[:2] and deployed.tables() == ["users"]
    newer = prisma.status(deployed.folder)
    # Before 7.9 a row that is rolled back counts as applied here; the module's documentation says so.
    blind = prisma.engine == CLI and record == "mark"
    assert (newer.done, newer.names) == ((True, []) if blind else (False, [REACTIONS[0]]))
    (first_release.parent / "v2").mkdir()
    for migration in (INIT, RENAME):
        deployed.write(*migration, folder=first_release.parent / "v2")
    older = prisma.status(first_release.parent / "v2")
    assert older.done and older.names == []


def test_a_rolled_back_migration_that_prisma_will_not_record_as_applied_is_recorded_by_the_module(deployed, prisma):
    deployed.down(REACTIONS[0])
    for resolved in ({"applied": REACTIONS[0]}, {"rolled_back": REACTIONS[0]}):
        before = deployed.state()
        assert prisma.resolve(deployed.folder, **resolved).code == ("P3008" if "applied" in resolved else "P3012")
        assert deployed.state() == before
    # The operator has brought it in by hand.
    deployed.sql(REACTIONS[1])
    result = deployed.run("prisma_migration", state="applied", migrations=[REACTIONS[0]])
    assert result["changed"] and result["recorded"] == [REACTIONS[0]]
    assert rows(deployed) == applied(INIT[0], RENAME[0]) + gone(REACTIONS[0]) + applied(REACTIONS[0])
    said = prisma.deploy(deployed.folder)
    assert said.done and said.names == [] and at_last_release(deployed)
    assert deployed.down(REACTIONS[0])["changed"] and deployed.tables() == ["users"]


def test_after_record_delete_prisma_itself_records_it_as_applied_and_that_is_told_as_baselined(deployed, prisma):
    deployed.down(REACTIONS[0], record="delete")
    deployed.sql(REACTIONS[1])
    assert prisma.resolve(deployed.folder, applied=REACTIONS[0]).done
    migration = deployed.info()["migrations"][2]
    assert migration["state"] == "applied" and migration["baselined"] and migration["checksum_ok"]
    result = deployed.down(REACTIONS[0])
    assert result["changed"] and "marked as applied by hand" in str(result["warnings"])
    assert rows(deployed) == applied(INIT[0], RENAME[0]) + gone(REACTIONS[0]) and deployed.tables() == ["users"]


def fail(prisma, stack, up, down):
    """A deploy that fails at this migration."""
    stack.write(HALF, up, down)
    said = prisma.deploy(stack.folder)
    assert not said.done and said.code != "P3009"
    assert rows(stack) == [*applied(*ALL), (HALF, False, False)]


def test_a_migration_that_failed_is_told_and_refused(deployed, prisma):
    fail(prisma, deployed, "CREATE TABLE half (id int); SELECT 1/0;", "DROP TABLE half;")
    before = deployed.state()
    history = deployed.info()
    assert history["failed_migrations"] == [HALF] and history["last_applied"] == REACTIONS[0]
    assert [each["code"] for each in history["migrations"][3]["problems"]] == ["failed"]
    refused(deployed, deployed.down(HALF), "mark_only", "run_down")
    assert deployed.state() == before and "half" in deployed.tables()
    # What stays blocks the next deploy, which the module warns of.
    assert "P3009" in str(deployed.down(REACTIONS[0])["warnings"])
    assert prisma.deploy(deployed.folder).code == "P3009"


@newer_engine
def test_a_migration_that_failed_and_left_nothing_is_marked_and_deployed_again_once_corrected(deployed, prisma):
    fail(prisma, deployed, "SELECT 1/0; CREATE TABLE half (id int);", "DROP TABLE half;")
    result = deployed.down(HALF, failed="mark_only")
    assert result["changed"] and result["rolled_back"][0]["statements"] == 0
    assert rows(deployed) == [*applied(*ALL), (HALF, False, True)] and at_last_release(deployed)
    deployed.write(HALF, "CREATE TABLE half (id int);", None)
    assert prisma.deploy(deployed.folder).names == [HALF]
    assert rows(deployed) == [*applied(*ALL), (HALF, False, True), *applied(HALF)] and "half" in deployed.tables()


@newer_engine
def test_a_migration_that_failed_halfway_is_undone_by_its_down_script_and_deployed_again(deployed, prisma):
    fail(prisma, deployed, "CREATE TABLE half (id int); SELECT 1/0;", "DROP TABLE half;")
    assert "half" in deployed.tables()
    assert deployed.down(HALF, failed="run_down")["changed"]
    assert rows(deployed) == [*applied(*ALL), (HALF, False, True)] and at_last_release(deployed)
    deployed.write(HALF, "CREATE TABLE half (id int);", None)
    assert prisma.deploy(deployed.folder).names == [HALF]
    assert deployed.down(HALF)["changed"] and at_last_release(deployed)
    assert rows(deployed) == [*applied(*ALL), (HALF, False, True), *gone(HALF)]


@newer_engine
def test_a_migration_that_fails_when_it_is_deployed_again_is_failed_and_not_applied(deployed, prisma):
    deployed.down(REACTIONS[0])
    deployed.sql("CREATE TABLE reactions (by_hand text)")
    assert not prisma.deploy(deployed.folder).done
    assert rows(deployed) == [*applied(*ALL[:2]), *gone(REACTIONS[0]), (REACTIONS[0], False, False)]
    history = deployed.info()
    assert history["failed_migrations"] == [REACTIONS[0]] and history["applied"] == ALL[:2]
    refused(deployed, deployed.down(REACTIONS[0]), "failed")
    assert deployed.down(REACTIONS[0], failed="mark_only")["changed"]
    assert deployed.columns("reactions") == ["by_hand"] and deployed.live() == ALL[:2]


@newer_engine
def test_a_migration_deployed_twice_goes_down_twice_and_every_row_is_kept(deployed, prisma):
    for times in (1, 2):
        assert deployed.down(REACTIONS[0])["changed"] and deployed.tables() == ["users"]
        assert prisma.deploy(deployed.folder).names == [REACTIONS[0]] and at_last_release(deployed)
        assert rows(deployed) == [*applied(*ALL[:2]), *gone(REACTIONS[0]) * times, *applied(REACTIONS[0])]
        assert [each["state"] for each in deployed.info()["migrations"]] == ["applied"] * 3


@newer_engine
def test_a_migration_corrected_and_deployed_again_is_compared_with_what_was_applied_last(deployed, prisma):
    deployed.down(REACTIONS[0])
    corrected = "CREATE TABLE reactions (id bigint PRIMARY KEY);"
    deployed.write(REACTIONS[0], corrected, None)
    assert prisma.deploy(deployed.folder).names == [REACTIONS[0]]
    assert deployed.info()["migrations"][2]["checksum_ok"] and prisma.status(deployed.folder).edited == []
    assert deployed.down(REACTIONS[0])["changed"] and deployed.tables() == ["users"]
    assert rows(deployed) == [*applied(*ALL[:2]), *gone(REACTIONS[0], REACTIONS[0])]


@newer_engine
def test_a_migration_edited_after_its_deploy_is_recognised(deployed, prisma):
    deployed.write(REACTIONS[0], REACTIONS[1] + "\n", None)
    assert prisma.status(deployed.folder).edited == [REACTIONS[0]]
    assert [each["checksum_ok"] for each in deployed.info()["migrations"]] == [True, True, False]
    before = deployed.state()
    refused(deployed, deployed.down(REACTIONS[0]), "not the one that was applied")
    assert deployed.state() == before
    assert deployed.down(REACTIONS[0], checksum="warn")["changed"] and deployed.tables() == ["users"]


@newer_engine
@pytest.mark.parametrize("ends", ["\r\n", "\n"], ids=["CRLF", "LF"])
def test_a_migration_deployed_from_a_checkout_with_other_line_ends_is_not_edited(stack, prisma, ends):
    up = b"-- \xc3\xa9 \xef\xbb\xbf\n-- and \xff, which is no UTF-8\nCREATE TABLE a (id int);\n"
    folder = stack.write("20260101_a", None, "DROP TABLE a;")
    (folder / "migration.sql").write_bytes(up.replace(b"\n", ends.encode()))
    assert prisma.deploy(stack.folder).done
    other = {"\r\n": b"\n", "\n": b"\r\n"}[ends]
    (folder / "migration.sql").write_bytes(up.replace(b"\n", other))
    assert stack.info()["migrations"][0]["checksum_ok"] is True
    assert stack.down("20260101_a")["changed"] and stack.tables() == [] and rows(stack) == gone("20260101_a")


@newer_engine
def test_migrations_deployed_in_another_order_than_their_names_go_down_newest_first(stack, prisma):
    stack.write("20260102_table", "CREATE TABLE a (id int);", "DROP TABLE a;")
    assert prisma.deploy(stack.folder).names == ["20260102_table"]
    # A branch that was merged late.
    stack.write("20260101_view", "CREATE VIEW v AS SELECT id FROM a;", "DROP VIEW v;")
    assert prisma.deploy(stack.folder).names == ["20260101_view"]
    result = stack.down("20260101_view", "20260102_table")
    assert [each["name"] for each in result["rolled_back"]] == ["20260101_view", "20260102_table"]
    assert rows(stack) == gone("20260102_table", "20260101_view") and stack.tables() == []
    assert prisma.deploy(stack.folder).done is False, "by name the view comes first, and its table is not there"


SLOW = ("20260104_slow", "CREATE TABLE slow (id int);\nSELECT pg_sleep(1.2);", "DROP TABLE slow;")
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def test_a_deploy_that_runs_is_waited_for_and_what_it_applied_is_not_overlooked(deployed, prisma):
    deployed.write(*SLOW)
    deploy = prisma.start("deploy", deployed.folder)
    wait_until(lambda: "slow" in deployed.tables())
    (holder,) = deployed.info()["lock"]["holders"]
    assert holder["application_name"] == "prisma-migrate"
    refused(deployed, deployed.down(REACTIONS[0], lock_wait=0.1), "72707369", "prisma-migrate")
    # This one waits until the deploy is done, which has changed what it had planned on.
    refused(deployed, deployed.down(REACTIONS[0]), "history changed")
    assert deploy.said().names == [SLOW[0]]
    assert rows(deployed) == applied(*ALL, SLOW[0]) and deployed.tables() == ["reactions", "slow", "users"]
    assert deployed.down(SLOW[0], REACTIONS[0])["changed"]
    assert rows(deployed) == applied(*ALL[:2]) + gone(REACTIONS[0], SLOW[0]) and deployed.tables() == ["users"]


@cli_only
def test_a_command_that_stays_after_its_work_is_waited_for(deployed, prisma):
    deployed.write("20260104_last", "CREATE TABLE last (id int);", "DROP TABLE last;")
    deploy = prisma.start("deploy", deployed.folder, lingers=True)
    wait_until(lambda: applied("20260104_last")[0] in rows(deployed))
    assert deployed.info()["lock"]["held"]
    refused(deployed, deployed.down("20260104_last", lock_wait=0.1), "72707369")
    assert deploy.process.poll() is None
    assert deployed.down("20260104_last")["changed"]
    assert deploy.said().done
    assert rows(deployed) == applied(*ALL) + gone("20260104_last") and at_last_release(deployed)


def rollback_that_waits(stack):
    """A rollback of the rename, between its locks and its end: (what lets it go on, what gives its result)."""
    gate = stack.connect()
    gate.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    result = in_background(lambda: stack.down(to_migrations=[INIT[0]], lock_timeout=0))
    wait_until(lambda: stack.sql(WAITING) == [(1,)])
    return (lambda: gate.execute("COMMIT")), result


def test_a_deploy_that_queues_behind_is_warned_of_and_does_apply_the_migrations_again(deployed, prisma):
    go_on, result = rollback_that_waits(deployed)
    deploy = prisma.start("deploy", deployed.folder)
    wait_until(lambda: deployed.sql(WAITING) == [(2,)])
    go_on()
    done = result()
    assert done["changed"] and "waits for Prisma's lock" in str(done["warnings"])
    assert deploy.said().names == ALL[1:]
    assert rows(deployed) == applied(INIT[0]) + gone(*ALL[1:]) + applied(*ALL[1:]) and at_last_release(deployed)


@newer_engine
def test_a_deploy_with_its_lock_disabled_waits_for_the_table_and_writes_after_the_commit(deployed, prisma):
    # PRISMA_SCHEMA_DISABLE_ADVISORY_LOCK=1: the native engine then takes no lock. The WebAssembly one ignores it, so
    # its statement, word for word, comes from a connection without the lock.
    go_on, result = rollback_that_waits(deployed)
    deploy = deployed.connect(user="app")
    start = in_background(
        lambda: (
            deploy.execute(
                'INSERT INTO "_prisma_migrations" ("id","checksum","started_at","migration_name") VALUES (%s,%s,%s,%s)',
                ["4b3c6f0e-6a0c-4a54-9f2e-0b5f0b1f7a11", hashlib.sha256(b"").hexdigest(), "2099-01-01", HALF],
            ).rowcount
        )
    )
    wait_until(lambda: deployed.sql(WAITING) == [(2,)])
    assert rows(deployed) == applied(*ALL)
    go_on()
    assert result()["changed"] and start() == 1
    assert rows(deployed) == [*applied(INIT[0]), *gone(*ALL[1:]), (HALF, False, False)] and at_first_release(deployed)
    # Nobody holds the lock, and still it may be running: it is not taken for applied, and Prisma stops at it too.
    history = deployed.info()
    assert history["failed_migrations"] == [HALF] and not history["lock"]["held"]
    assert prisma.deploy(deployed.folder).code == "P3009"


MODELS = "model users {\n  id Int @id\n  role Role @default(USER)\n%s}\nenum Role {\n  USER\n%s}\n"


@cli_only
def test_an_enum_migration_goes_down_by_the_script_that_prisma_generates(stack, prisma):
    before, after = MODELS % ("", ""), MODELS % ("  nick String?\n", "  ADMIN\n")
    init, up, down = prisma.diff("", before), prisma.diff(before, after), prisma.diff(after, before)
    assert "BEGIN;" in down and "COMMIT;" in down
    stack.write("20260101_init", init, None)
    stack.write("20260102_admin", up, down)
    assert prisma.deploy(stack.folder).done
    stack.sql("INSERT INTO users VALUES (1, 'USER'), (2, 'ADMIN')")
    before = stack.state()
    result = stack.down("20260102_admin", target="v1", confirm_data_loss="v1")
    refused(stack, result, "22P02")
    assert stack.state() == before
    stack.sql("UPDATE users SET role = 'USER'")
    result = stack.down("20260102_admin", target="v1", confirm_data_loss="v1")
    assert result["changed"] and "BEGIN and COMMIT" in str(result["warnings"])
    assert rows(stack) == applied("20260101_init") + gone("20260102_admin")
    assert stack.columns("users") == ["id", "role"]
    assert stack.sql("SELECT id, role::text FROM users ORDER BY id") == [(1, "USER"), (2, "USER")]
    assert stack.sql("SELECT typname::text, enumlabel::text FROM pg_enum JOIN pg_type t ON t.oid = enumtypid") == [
        ("Role", "USER")
    ]
    assert prisma.deploy(stack.folder).names == ["20260102_admin"]
    assert stack.sql("SELECT count(*) FROM pg_enum") == [(2,)] and stack.columns("users") == ["id", "role", "nick"]


@newer_engine
def test_a_history_in_the_urls_schema_is_rolled_back_there_and_nowhere_else(stack, prisma):
    stack.sql('CREATE SCHEMA "We""ird % s"; CREATE TABLE public."Ta""ble" (id int)')
    stack.url = prisma.url = stack.url.replace("schema=public", "schema=We%22ird%20%25%20s")
    name = "20260101_a \"b\" 'c' 100%"
    stack.write("20260100_init", "CREATE TABLE kept (id int);", None)
    stack.write(name, 'CREATE TABLE "Ta""ble" (id int);', 'DROP TABLE "Ta""ble";')
    ledger = '"We""ird % s"._prisma_migrations'

    def tables():
        return stack.sql(
            "SELECT schemaname::text, tablename::text FROM pg_tables WHERE tablename IN ('Ta\"ble', 'kept') ORDER BY 1"
        )

    weird, public = ('We"ird % s', 'Ta"ble'), ("public", 'Ta"ble')
    assert prisma.deploy(stack.folder).names == ["20260100_init", name]
    history = stack.info()
    assert history["schema"] == 'We"ird % s' and history["database"] == DATABASE and history["last_applied"] == name
    for times in (1, 2):
        assert stack.down(name)["changed"]
        assert rows(stack, ledger) == applied("20260100_init") + gone(name) * times
        assert set(tables()) == {('We"ird % s', "kept"), public}
        assert prisma.deploy(stack.folder).names == [name] and weird in tables()
