"""One transaction for each migration, statements outside any, and verify.sql."""

from __future__ import annotations

import threading

import pytest

from .scene import INIT, REACTIONS, RENAME, refused, wait_until

BROKEN = "ALTER TABLE users RENAME COLUMN full_name TO name;\nSELECT 1/0;"


INDEX_WAITS = (
    "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock'"
)


def indexes(stack) -> list[str]:
    return [
        name
        for (name,) in stack.sql(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'users'::regclass AND NOT indisprimary "
            "AND indisvalid ORDER BY 1"
        )
    ]


def test_each_migration_is_committed_by_itself_and_the_first_failure_keeps_what_is_done(three):
    three.write(RENAME[0], None, BROKEN)
    result = three.down(steps=2, transaction="each")
    assert result["failed"] and result["changed"], result
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0]]
    assert result["remaining"] == [RENAME[0]] and result["failed_migration"] == RENAME[0]
    assert (result["line"], result["sqlstate"]) == (2, "22012")
    assert result["applied_after"] == [INIT[0], RENAME[0]]
    assert f"{REACTIONS[0]}: rolled back and recorded, each by itself. Nothing else was changed." in result["msg"]
    assert three.live() == [INIT[0], RENAME[0]]
    assert three.tables() == ["users"] and three.columns("users") == ["id", "full_name"]
    three.write(RENAME[0], None, RENAME[2])
    again = three.down(migrations=[RENAME[0], REACTIONS[0]], transaction="each")
    assert [each["name"] for each in again["rolled_back"]] == [RENAME[0]]
    assert three.live() == [INIT[0]] and three.columns("users") == ["id", "name"]


def test_in_one_transaction_the_same_failure_changes_nothing(three):
    three.write(RENAME[0], None, BROKEN)
    before = three.state()
    result = three.down(steps=2)
    refused(three, result, "Nothing was changed.")
    assert result["rolled_back"] == [] and three.state() == before


def test_each_counts_what_is_lost_by_the_names_of_that_moment(three):
    three.apply("20260104_posts", "CREATE TABLE posts (id int);", "ALTER TABLE posts RENAME TO old_posts;")
    three.apply("20260105_more", "SELECT 1;", "SELECT 1;")
    three.write("20260103_reactions", None, "DROP TABLE old_posts; DROP TABLE reactions;")
    three.sql("INSERT INTO posts VALUES (1)")
    before = three.state()
    refused(three, three.down(steps=3, transaction="each"), "old_posts: 1 row", "confirm_data_loss")
    assert three.state() == before
    assert three.down(steps=3, transaction="each", target="v1", confirm_data_loss="v1")["changed"]
    assert three.tables() == ["users"]


@pytest.fixture
def indexed(three):
    """The newest migration replaced an index by another one, without locking the table."""
    three.sql("CREATE INDEX users_name ON users (full_name)")
    three.apply(
        "20260104_index",
        "CREATE INDEX users_lower ON users (lower(full_name)) WHERE full_name <> ''; DROP INDEX users_name;",
        "-- rollback: no-transaction\nCREATE INDEX CONCURRENTLY users_name ON users (full_name);\n"
        "DROP INDEX CONCURRENTLY users_lower;\nCOMMENT ON TABLE users IS 'people';",
    )
    return three


def comment(stack) -> str | None:
    return stack.sql("SELECT obj_description('users'::regclass)")[0][0]


def test_a_marked_script_needs_a_transaction_of_its_own(indexed):
    before = indexed.state()
    refused(indexed, indexed.down(steps=1), "CREATE INDEX CONCURRENTLY runs outside", "transaction=each")
    assert indexed.state() == before


def test_a_marked_script_runs_outside_and_then_is_recorded(indexed):
    result = indexed.down(steps=2, transaction="each")
    assert result["changed"] and result["rolled_back"][0]["statements"] == 3, result
    assert indexes(indexed) == ["users_name"] and comment(indexed) == "people"
    assert indexed.live() == [INIT[0], RENAME[0]] and indexed.tables() == ["users"]


def test_an_index_that_a_killed_run_left_invalid_is_built_again_and_a_finished_one_is_not(indexed):
    indexed.sql("CREATE INDEX users_name ON users (full_name)")
    with indexed.connect() as admin:
        admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_name'::regclass")
    assert indexed.down(steps=1, transaction="each")["changed"]
    assert indexes(indexed) == ["users_name"]


def test_what_is_there_already_is_passed_over_with_a_warning(indexed):
    indexed.sql("CREATE INDEX users_name ON users (full_name)")
    [(before,)] = indexed.sql("SELECT 'users_name'::regclass::oid")
    indexed.sql("DROP INDEX users_lower")
    result = indexed.down(steps=1, transaction="each")
    assert result["changed"] and str(result["warnings"]).count("was there already") == 2, result
    assert indexed.sql("SELECT 'users_name'::regclass::oid") == [(before,)]
    assert comment(indexed) == "people"


@pytest.mark.parametrize("other", ["ON users (id)", "ON users (full_name) WHERE id > 0", "ON reactions (id)"])
def test_another_index_of_that_name_is_not_taken_for_it(indexed, other):
    indexed.sql(f"CREATE INDEX users_name {other}")
    before = indexed.state()
    refused(indexed, indexed.down(steps=1, transaction="each"), "is not the index that the script makes")
    assert indexed.state() == before


def test_an_index_on_an_expression_is_recognised_after_it_was_built(three):
    definition = "users_lower ON users USING btree (lower(name) text_pattern_ops DESC) WHERE name <> 'x'"
    three.write(RENAME[0], None, f"-- rollback: no-transaction\nCREATE INDEX CONCURRENTLY {definition};{BROKEN}")
    three.sql("ALTER TABLE users RENAME COLUMN full_name TO name")
    three.sql(f"CREATE INDEX {definition}")
    result = three.down(migrations=[RENAME[0]], transaction="each")
    assert "was there already" in str(result["warnings"]), result


def test_a_failure_after_it_says_what_stays_and_the_next_run_goes_on_from_there(indexed):
    indexed.write("20260104_index", None, (indexed.folder / "20260104_index" / "down.sql").read_text() + "SELECT 1/0;")
    result = indexed.down(steps=1, transaction="each")
    assert result["failed"] and result["changed"] and result["rolled_back"] == []
    assert "Nothing was recorded, and this stays" in result["msg"] and "down.sql, line 2" in result["msg"]
    assert indexed.live()[-1] == "20260104_index" and indexes(indexed) == ["users_name"] and comment(indexed) is None
    indexed.write("20260104_index", None, "-- rollback: no-transaction\nDROP INDEX CONCURRENTLY users_lower;")
    assert indexed.down(steps=1, transaction="each")["changed"]


def test_a_deploy_that_queues_for_the_lock_meanwhile_does_not_hold_the_index_up_for_ever(indexed):
    writer = indexed.connect()
    writer.execute("BEGIN")
    writer.execute("UPDATE users SET id = id")
    deploy = indexed.connect()
    waiting = threading.Thread(target=lambda: deploy.execute("SELECT pg_advisory_lock(72707369)"), daemon=True)
    answer = []
    rollback = threading.Thread(target=lambda: answer.append(indexed.down(steps=1, transaction="each")))
    rollback.start()
    wait_until(lambda: indexed.sql(INDEX_WAITS) == [(True,)])
    waiting.start()
    queued = "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND objid = 72707369"
    wait_until(lambda: indexed.sql(queued) == [(True,)])
    writer.execute("COMMIT")
    rollback.join(30)
    [result] = answer
    assert result["failed"] and "waits for Prisma's lock" in result["msg"], result
    assert f"pid {deploy.info.backend_pid}" in result["msg"]
    waiting.join(10)
    deploy.close()
    assert indexed.down(steps=1, transaction="each")["changed"]
    assert indexes(indexed) == ["users_name"]


def test_a_session_that_holds_an_index_up_for_longer_than_the_lock_wait_is_named(indexed):
    writer = indexed.connect(application_name="forgotten-console")
    writer.execute("BEGIN")
    writer.execute("UPDATE users SET id = id")
    result = indexed.down(steps=1, transaction="each", lock_wait=1)
    assert result["failed"] and "forgotten-console" in result["msg"] and "end that session" in result["msg"], result
    writer.execute("COMMIT")
    assert indexed.down(steps=1, transaction="each")["changed"]
    assert indexes(indexed) == ["users_name"]


def test_a_deploy_without_prismas_lock_is_kept_out_while_an_index_is_built(indexed):
    reader = indexed.connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT count(*) FROM users")
    answer = []
    rollback = threading.Thread(target=lambda: answer.append(indexed.down(steps=1, transaction="each")))
    rollback.start()
    wait_until(lambda: indexed.sql(INDEX_WAITS) == [(True,)])
    deploy = indexed.connect("app")
    deploy.execute("SET lock_timeout = '200ms'")
    with pytest.raises(Exception, match="lock timeout"):
        deploy.execute("INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('x', 'x', 'x')")
    reader.execute("COMMIT")
    rollback.join(30)
    assert answer[0]["changed"] and not answer[0].get("failed"), answer


UNFIT = {
    "after the rest": (
        "COMMENT ON TABLE users IS 'x';\nDROP INDEX CONCURRENTLY users_lower;",
        "line 3",
        "before the statements",
    ),
    "no name": ("CREATE INDEX CONCURRENTLY ON users (id);", "line 2", "no name"),
    "everything": ("VACUUM;", "line 2", "name the tables"),
    "a schema": ("REINDEX SCHEMA public;", "line 2", "name the tables"),
    "system": ("ALTER SYSTEM SET work_mem = '4MB';", "line 2", "cannot be taken up again"),
    "database": ("DROP DATABASE other;", "line 2", "cannot be taken up again"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_marked_script_that_could_not_be_taken_up_again_is_refused(indexed, kind):
    script, *parts = UNFIT[kind]
    indexed.write("20260104_index", None, f"-- rollback: no-transaction\n{script}")
    before = indexed.state()
    refused(indexed, indexed.down(steps=1, transaction="each"), *parts)
    assert indexed.state() == before


def test_without_the_parser_a_marked_script_is_refused(indexed):
    refused(indexed, indexed.down(steps=1, transaction="each", without=("pglast",)), "Install pglast")


def test_without_the_mark_the_advice_names_it(three):
    three.write(REACTIONS[0], None, "DROP INDEX CONCURRENTLY users_name;")
    refused(three, three.down(steps=1), "cannot run inside a transaction", "-- rollback: no-transaction")


def test_verify_sql_that_says_true_lets_it_be_committed_and_leaves_nothing(three):
    three.write(REACTIONS[0], None, REACTIONS[2])
    (three.folder / REACTIONS[0] / "verify.sql").write_text(
        "SELECT to_regclass('reactions') IS NULL AS gone, 'text' AS note;\nSELECT count(*) FROM users;"
    )
    assert three.info()["migrations"][-1]["has_verify"]
    assert three.down(steps=1)["changed"] and three.tables() == ["users"]


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("SELECT 1;\nSELECT to_regclass('users') IS NULL AS users_gone;", ["line 2", "users_gone is not true"]),
        ("SELECT NULL::boolean AS nothing;", ["nothing is not true"]),
        ("SELECT 1/0;", ["verify.sql, line 1", "22012"]),
        ("DELETE FROM users;", ["verify.sql, line 1", "read-only"]),
        ("COMMIT;", ["verify.sql, line 1", "ends a transaction"]),
        ("SELECT (;", ["verify.sql, line 1", "syntax error"]),
    ],
)
def test_verify_sql_that_does_not_say_true_undoes_everything(three, script, parts):
    (three.folder / RENAME[0] / "verify.sql").write_text(script)
    before = three.state()
    refused(three, three.down(steps=2), *parts)
    assert three.state() == before


def test_two_questions_without_a_name_are_both_heard(three):
    (three.folder / REACTIONS[0] / "verify.sql").write_text(
        "SELECT to_regclass('users') IS NULL, to_regclass('reactions') IS NULL;"
    )
    before = three.state()
    refused(three, three.down(steps=1), "is not true")
    assert three.state() == before


def test_a_connection_that_dies_in_the_second_of_each_leaves_the_first_told(three):
    three.write(RENAME[0], None, "SELECT pg_terminate_backend(pg_backend_pid());")
    result = three.down(steps=2, transaction="each", target="v1", confirm_data_loss="v1")
    assert result["failed"] and result["changed"] and result["remaining"] == [RENAME[0]], result
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0]]
    assert result["applied_after"] == three.live() == [INIT[0], RENAME[0]]


PAIRS = {
    "a table": ("CREATE TABLE tmp (id int);", "DROP TABLE tmp;", "DROP TABLE tmp;", "CREATE TABLE tmp (id int);"),
    "a column": (
        "ALTER TABLE users ADD COLUMN nick text;",
        "ALTER TABLE users DROP COLUMN nick;",
        "ALTER TABLE users DROP COLUMN nick;",
        "ALTER TABLE users ADD COLUMN nick text;",
    ),
    "a renamed column": (
        "ALTER TABLE users ADD COLUMN nick text;",
        "ALTER TABLE users DROP COLUMN nick;",
        "ALTER TABLE users RENAME COLUMN nick TO alias;",
        "ALTER TABLE users RENAME COLUMN alias TO nick;",
    ),
    "rows of a table of theirs": (
        "CREATE TABLE tmp (id int);",
        "DELETE FROM tmp; DROP TABLE tmp;",
        "DROP TABLE tmp;",
        "CREATE TABLE tmp (id int); INSERT INTO tmp VALUES (1);",
    ),
}


@pytest.mark.parametrize("transaction", ["all", "each"])
@pytest.mark.parametrize("kind", ["a table", "a column", "a renamed column"])
def test_what_scripts_make_and_take_away_themselves_needs_no_consent(three, kind, transaction):
    first_up, first_down, second_up, second_down = PAIRS[kind]
    before = three.columns("users")
    three.apply("20260104_first", first_up, first_down)
    three.apply("20260105_second", second_up, second_down)
    result = three.down(steps=2, transaction=transaction)
    assert result["changed"] and not result.get("failed"), result
    assert three.tables() == ["reactions", "users"] and three.columns("users") == before


def test_rows_that_a_script_wrote_itself_are_nobodys_data(three):
    first_up, first_down, second_up, second_down = PAIRS["rows of a table of theirs"]
    three.apply("20260104_first", first_up, first_down)
    three.apply("20260105_second", second_up, second_down)
    assert three.down(steps=2)["changed"] and three.tables() == ["reactions", "users"]


def test_what_is_in_no_dump_is_not_lost_whatever_the_consent_says(three):
    three.sql("INSERT INTO reactions VALUES (1)")
    consent = {"steps": 1, "target": "v1", "confirm_data_loss": "v1"}
    before = three.state()
    other = {"whole": False, "tables": [{"schema": "public", "name": "users", "rows": 1}]}
    refused(three, three.down(**consent, backup=other), "the backup does not hold", "reactions: 1 row")
    assert three.state() == before
    hidden = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; RETURN 1; END $$;"
    dumped = {"whole": False, "tables": [{"schema": "public", "name": "reactions", "rows": 1}]}
    three.write(REACTIONS[0], None, f"{hidden} CREATE VIEW v AS SELECT f(); CREATE TABLE x AS SELECT * FROM v;")
    refused(three, three.down(**consent, backup=dumped), "the backup does not hold", "1 row of users deleted")
    assert three.state() == before
    three.write(REACTIONS[0], None, REACTIONS[2])
    assert three.down(**consent, backup=dumped)["changed"] and three.tables() == ["users"]
