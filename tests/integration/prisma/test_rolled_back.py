"""Rolling migrations back on a real PostgreSQL."""

from __future__ import annotations

import hashlib

import pytest

from .scene import INIT, REACTIONS, RENAME, refused


def test_everything_the_target_does_not_know_goes_down_newest_first_and_its_rows_are_marked(three):
    result = three.down(to_migrations=[INIT[0]])
    assert result["changed"]
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0], RENAME[0]]
    assert result["applied_before"] == [INIT[0], RENAME[0], REACTIONS[0]]
    assert result["applied_after"] == [INIT[0]] and result["last_applied"] == INIT[0] and result["remaining"] == []
    assert three.live() == [INIT[0]]
    assert three.tables() == ["users"] and three.columns("users") == ["id", "name"]
    assert three.sql("SELECT * FROM users") == [(1, "Ada")]
    # The history stays: three rows, none of them said to be unfinished.
    assert three.sql("SELECT count(*), count(finished_at), count(rolled_back_at) FROM _prisma_migrations") == [
        (3, 3, 2)
    ]


def test_check_mode_and_real_runs_agree_and_the_second_real_run_changes_nothing(three):
    before = three.state()
    checked = three.down(to_migrations=[INIT[0]], check=True)
    assert checked["changed"] and three.state() == before
    real = three.down(to_migrations=[INIT[0]])
    for key in ("plan", "applied_before", "applied_after", "last_applied", "remaining", "ledger_before"):
        assert checked[key] == real[key], key
    after = three.state()
    for check in (True, False):
        again = three.down(to_migrations=[INIT[0]], check=check)
        assert not again["changed"] and again["plan"] == [] and set(again) == set(real)
    assert three.state() == after


def test_explicit_names_run_newest_first_in_whatever_order_they_are_given(three):
    result = three.down(RENAME[0], REACTIONS[0])
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0], RENAME[0]]


def test_the_diff_shows_the_names_and_the_sql(three):
    result = three.down(REACTIONS[0], diff=True, check=True)
    assert result["diff"]["before"].splitlines() == [INIT[0], RENAME[0], REACTIONS[0]]
    assert result["diff"]["after"].splitlines() == [INIT[0], RENAME[0]]
    assert "DROP TABLE reactions;" in result["diff"]["prepared"]


def test_the_whole_rows_are_returned_so_that_they_can_be_put_back(three):
    (row,) = three.down(REACTIONS[0])["ledger_before"]
    three.sql("DELETE FROM _prisma_migrations WHERE id = %s", row["id"])
    columns = ", ".join(row)
    three.sql(f"INSERT INTO _prisma_migrations ({columns}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())
    assert REACTIONS[0] in three.live()


def test_record_delete_removes_the_row(three):
    three.down(REACTIONS[0], record="delete")
    assert three.sql("SELECT count(*) FROM _prisma_migrations WHERE migration_name = %s", REACTIONS[0]) == [(0,)]


def test_a_name_that_is_rolled_back_already_or_only_on_disk_is_no_error(three):
    three.write("20260104_never", "SELECT 1;", "SELECT 1;")
    three.down(REACTIONS[0])
    assert not three.down(REACTIONS[0], "20260104_never")["changed"]


def test_an_unknown_name_is_refused_with_the_likely_one(three):
    before = three.state()
    refused(three, three.down("20260103_reaction"), "No migration is called 20260103_reaction", REACTIONS[0])
    assert three.state() == before


@pytest.mark.parametrize(("target", "text"), [([], "to_migrations is empty"), (["20990101_x"], "another project")])
def test_a_target_that_would_take_everything_down_is_refused(three, target, text):
    before = three.state()
    refused(three, three.down(to_migrations=target), text)
    assert three.state() == before


def test_every_live_row_of_a_name_is_marked_also_after_it_was_applied_twice(three):
    three.down(REACTIONS[0])
    three.sql(REACTIONS[1])
    identity = three.row(*REACTIONS[:2])
    result = three.down(REACTIONS[0])
    assert result["rolled_back"][0]["ids"] == [identity]
    assert three.sql("SELECT count(*) FROM _prisma_migrations WHERE rolled_back_at IS NOT NULL") == [(2,)]


def test_a_failing_statement_leaves_the_database_as_it_was_and_is_named_by_line(three):
    path = three.write(INIT[0], None, "-- first\nDROP TABLE users;\n\nALTER TABLE nowhere\n  DROP COLUMN x;\n")
    before = three.state()
    result = three.down(INIT[0], RENAME[0], REACTIONS[0], target="v1", confirm_data_loss="v1")
    refused(three, result, "Nothing was changed", "line 4", "nowhere", "42P01")
    assert (result["failed_migration"], result["sqlstate"], result["line"]) == (INIT[0], "42P01", 4)
    assert result["file"] == str(path / "down.sql") and result["statement"].startswith("ALTER TABLE nowhere")
    assert three.state() == before


def test_the_line_is_that_of_the_error_inside_a_long_statement(three):
    three.write(RENAME[0], None, "\ufeff\r\n\r\nSELECT 'é',\r\n 1,\r\n  nothing_like_it;")
    assert three.down(RENAME[0])["line"] == 5


def test_an_error_without_a_position_names_its_statement(three):
    three.sql("CREATE VIEW v AS SELECT id FROM users")
    three.write(INIT[0], None, "SELECT 1;\nDROP TABLE users;\n")
    result = three.down(INIT[0], target="v1", confirm_data_loss="v1")
    refused(three, result, "2BP01", "view v depends on table users")
    assert (result["line"], result["statement"]) == (2, "DROP TABLE users")


def test_a_constraint_that_is_only_checked_at_the_commit_is_blamed_on_its_script_and_quotes_no_row(three):
    three.sql("ALTER TABLE users ADD UNIQUE (full_name) DEFERRABLE INITIALLY DEFERRED")
    three.write(RENAME[0], None, "INSERT INTO users VALUES (2, 'Ada');")
    before = three.state()
    result = three.down(RENAME[0])
    refused(three, result, "23505")
    assert result["failed_migration"] == RENAME[0] and "Ada" not in result["msg"] + result["detail"]
    assert three.state() == before


ENUM_DOWN = """-- As Prisma's own generator writes it.
BEGIN;
CREATE TYPE "Role_new" AS ENUM ('USER');
ALTER TABLE "users" ALTER COLUMN "role" TYPE "Role_new" USING ("role"::text::"Role_new");
ALTER TYPE "Role" RENAME TO "Role_old";
ALTER TYPE "Role_new" RENAME TO "Role";
DROP TYPE "Role_old";
COMMIT;

ALTER TABLE users ADD COLUMN after_commit int;
"""


def test_prismas_own_begin_and_commit_are_flattened_and_lose_nothing(three):
    three.sql('CREATE TYPE "Role" AS ENUM (\'USER\'); ALTER TABLE users ADD role "Role" DEFAULT NULL')
    three.sql("UPDATE users SET role = 'USER'")
    three.apply("20260104_enum", "ALTER TYPE \"Role\" ADD VALUE 'ADMIN';", ENUM_DOWN)
    result = three.down("20260104_enum")
    assert result["plan"][0]["loss"] == [] and "BEGIN and COMMIT" in str(result["warnings"])
    assert three.sql("SELECT role::text FROM users") == [("USER",)]
    assert three.sql("SELECT enumlabel::text FROM pg_enum") == [("USER",)]


def test_a_flattened_commit_commits_nothing_when_a_later_statement_fails(three):
    three.apply("20260104_more", "CREATE TABLE more (id int);", "BEGIN; DROP TABLE more; COMMIT; SELECT 1/0;")
    before = three.state()
    refused(three, three.down("20260104_more"), "22012")
    assert three.state() == before


BAD_SCRIPTS = {
    "missing": (None, "has no down.sql"),
    "empty": (b" \n\n", "is empty"),
    "only comments": (b"-- nothing /* \n/* at /* all */ */", "comments only"),
    "only begin and commit": (b"BEGIN; COMMIT;", "BEGIN and COMMIT only"),
    "unparsable": (b"SELECT 1;\nDROP TABEL users;", "line 2"),
    "an open string": (b"SELECT 1;\nSELECT 'x", "never closed"),
    "latin-1": ("SELECT 'é';".encode("latin-1"), "not UTF-8"),
    "NUL": (b"DROP TABLE users;\0 DROP TABLE x;", "NUL"),
    "psql": (b"\\set x 1\nSELECT 1;", "psql"),
    "copy": (b"COPY users FROM STDIN;", "COPY"),
    "rollback": (b"DROP TABLE reactions; ROLLBACK;", "controls a transaction"),
    "commit alone": (b"DROP TABLE reactions; COMMIT;", "did not open"),
    "begin alone": (b"BEGIN; DROP TABLE reactions;", "never commits"),
    "serializable": (b"BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT;", "controls a transaction"),
    "savepoint": (b"SAVEPOINT x; SELECT 1;", "controls a transaction"),
    "and chain": (b"BEGIN; SELECT 1; COMMIT AND CHAIN;", "controls a transaction"),
    "prepared": (b"PREPARE TRANSACTION 'x';", "controls a transaction"),
    "concurrently": (b"DROP INDEX CONCURRENTLY some_index;", "cannot run inside a transaction"),
    "vacuum": (b"VACUUM users;", "cannot run inside a transaction"),
    "two directives": (b"-- rollback: keep\n-- rollback: down\nSELECT 1;", "-- rollback: down` and `-- rollback: keep"),
}


@pytest.mark.parametrize("kind", BAD_SCRIPTS)
def test_a_bad_script_of_an_older_migration_stops_it_before_the_newer_ones_first_statement(three, kind):
    content, text = BAD_SCRIPTS[kind]
    path = three.folder / RENAME[0] / "down.sql"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = three.state()
    result = three.down(to_migrations=[INIT[0]])
    refused(three, result, "Nothing was changed", text)
    assert result["failed_migration"] == RENAME[0] and three.state() == before


def test_odd_but_valid_sql_runs_as_it_is_written(three):
    script = (
        "/* a /* nested; */ comment */ CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $body$\n"
        "BEGIN RETURN 'a;b''c'; END; $body$;\n"
        "CREATE FUNCTION g(x int) RETURNS int LANGUAGE sql "
        "BEGIN ATOMIC SELECT CASE WHEN x > 1 THEN 1 ELSE 0 END; END;\n"
        "CREATE TABLE \"semi;colon\" (a text DEFAULT E'it\\'s; 100%', b text DEFAULT U&'\\0061;');\n"
        'CREATE RULE r AS ON INSERT TO "semi;colon" DO ALSO (SELECT 1; SELECT 2);\n'
        "INSERT INTO users (id, full_name) SELECT 2, '%s %(name)s 100%'\n"
    )
    three.write(REACTIONS[0], None, script)
    result = three.down(REACTIONS[0])
    assert result["changed"], result
    assert result["rolled_back"][0]["statements"] == 5
    assert three.sql("SELECT full_name, f(), g(2) FROM users WHERE id = 2") == [("%s %(name)s 100%", "a;b'c", 1)]


def test_the_first_folder_with_a_down_script_wins_and_a_missing_folder_counts_as_empty(three, tmp_path):
    archive = tmp_path / "archive"
    (three.folder / REACTIONS[0] / "down.sql").unlink()
    three.write(REACTIONS[0], REACTIONS[1], REACTIONS[2], archive)
    result = three.down(REACTIONS[0], path=[str(three.folder), str(tmp_path / "none"), str(archive)])
    assert result["changed"] and three.tables() == ["users"]


def test_an_edited_migration_is_refused_unless_the_operator_says_otherwise(three):
    three.write(REACTIONS[0], REACTIONS[1] + " -- changed", None)
    before = three.state()
    refused(three, three.down(REACTIONS[0]), "not the one that was applied")
    assert three.state() == before
    result = three.down(REACTIONS[0], checksum="warn")
    assert result["changed"] and "not the one that was applied" in str(result["warnings"])


@pytest.mark.parametrize("stored", ["\r\n", "\n"])
def test_a_checkout_with_other_line_ends_is_not_edited(stack, stored):
    up = "CREATE TABLE a (id int);\nSELECT 1;\n"
    other = {"\r\n": "\n", "\n": "\r\n"}[stored]
    stack.sql("CREATE TABLE a (id int)")
    stack.row("20260101_a", up.replace("\n", stored))
    stack.write("20260101_a", up.replace("\n", other), "DROP TABLE a;")
    assert stack.info()["migrations"][0]["checksum_ok"] is True
    assert stack.down("20260101_a")["changed"]


def test_a_failed_migration_is_refused_then_marked_or_run_down_as_the_operator_says(three):
    three.write("20260104_half", "CREATE TABLE half (id int); SELECT 1/0;", "DROP TABLE IF EXISTS half;")
    three.sql("CREATE TABLE half (id int)")
    three.row(
        "20260104_half", state="failed", checksum=hashlib.sha256(b"CREATE TABLE half (id int); SELECT 1/0;").hexdigest()
    )
    before = three.state()
    refused(three, three.down("20260104_half"), "mark_only", "run_down")
    assert three.state() == before
    marked = three.down("20260104_half", failed="mark_only")
    assert marked["changed"] and "half" in three.tables() and "20260104_half" not in three.live()
    three.sql("UPDATE _prisma_migrations SET rolled_back_at = NULL WHERE migration_name = '20260104_half'")
    assert three.down("20260104_half", failed="run_down")["changed"] and "half" not in three.tables()


def test_a_failed_migration_that_stays_is_a_warning(three):
    three.row("20260104_half", state="failed")
    assert "P3009" in str(three.down(REACTIONS[0])["warnings"])


def test_a_script_may_mark_its_own_row_but_no_other(three):
    own = f"DROP TABLE reactions; DELETE FROM \"_prisma_migrations\" WHERE migration_name = '{REACTIONS[0]}';"
    three.write(REACTIONS[0], None, own)
    assert three.down(REACTIONS[0])["rolled_back"][0]["recorded_by"] == "script"
    before = three.state()
    three.write(RENAME[0], None, RENAME[2] + "UPDATE _prisma_migrations SET rolled_back_at = now();")
    refused(three, three.down(RENAME[0]), f"changes the history of {INIT[0]}")
    assert three.state() == before


def test_a_script_that_adds_a_row_is_refused(three):
    three.write(
        RENAME[0], None, "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('x', 'y', 'z');"
    )
    before = three.state()
    refused(three, three.down(RENAME[0]), "adds rows to _prisma_migrations")
    assert three.state() == before


def test_what_a_script_leaves_in_the_session_reaches_neither_the_bookkeeping_nor_the_next_script(three):
    hostile = (
        "DROP TABLE reactions; CREATE TEMP TABLE _prisma_migrations (id text); CREATE TEMP TABLE users (id int);"
        "SELECT set_config('search_path', '', false); SET lock_timeout = 0; SELECT pg_advisory_unlock_all();"
        "SET session_replication_role = DEFAULT; RESET ALL; SET search_path = '';"
    )
    three.write(REACTIONS[0], None, hostile.replace("SET session_replication_role = DEFAULT;", ""))
    three.write(
        RENAME[0], None, "ALTER TABLE public.users RENAME COLUMN full_name TO name; SELECT id FROM _prisma_migrations;"
    )
    result = three.down(to_migrations=[INIT[0]], target="v1", confirm_data_loss="v1")
    assert result["changed"], result
    assert three.live() == [INIT[0]] and three.columns("public.users") == ["id", "name"]


def test_set_role_in_a_script_does_not_reach_the_next_one(stack, cluster):
    admin = stack.connect()
    admin.execute("CREATE ROLE weak NOLOGIN")
    try:
        admin.execute("GRANT weak TO app")
        stack.apply("20260101_a", "CREATE TABLE a (id int);", "DROP TABLE a;")
        stack.apply("20260102_b", "CREATE TABLE b (id int);", "DROP TABLE b; SET ROLE weak;")
        assert stack.down("20260101_a", "20260102_b")["changed"] and stack.tables() == []
    finally:
        admin.execute("DROP OWNED BY weak")
        admin.execute("DROP ROLE weak")


def test_notices_tell_what_a_cascade_took(three):
    three.sql("CREATE VIEW v AS SELECT id FROM reactions")
    three.write(REACTIONS[0], None, "DROP TABLE reactions CASCADE;")
    assert "drop cascades to view v" in str(three.down(REACTIONS[0])["rolled_back"][0]["notices"])


def test_newer_migrations_that_stay_are_named(three):
    assert f"newer migrations stay applied: {REACTIONS[0]}" in str(three.down(RENAME[0])["warnings"])


def test_names_that_disagree_with_the_order_of_application_go_down_in_the_reverse_order_of_application(stack):
    stack.apply("20260102_late", "CREATE TABLE a (id int);", "DROP TABLE a;")
    stack.apply("20260101_early", "CREATE VIEW v AS SELECT * FROM a;", "DROP VIEW v;")
    result = stack.down("20260101_early", "20260102_late")
    assert [each["name"] for each in result["rolled_back"]] == ["20260101_early", "20260102_late"]
    assert "another order" in str(result["warnings"])


def test_a_migration_repaired_by_hand_is_recorded_as_applied(three):
    three.row("20260104_half", state="failed")
    up = "CREATE TABLE half (id int);"
    three.write("20260104_half", up, None)
    before = three.state()
    arguments = {"migrations": ["20260104_half", REACTIONS[0]], "state": "applied"}
    checked = three.run("prisma_migration", check=True, **arguments)
    assert three.state() == before
    real = three.run("prisma_migration", **arguments)
    assert checked["recorded"] == real["recorded"] == ["20260104_half"] and real["changed"]
    assert checked["applied_after"] == real["applied_after"] == three.live()
    assert three.sql(
        "SELECT checksum, finished_at IS NOT NULL, applied_steps_count, logs FROM _prisma_migrations "
        "WHERE migration_name = '20260104_half' AND rolled_back_at IS NULL"
    ) == [(hashlib.sha256(up.encode()).hexdigest(), True, 0, "")]
    assert not three.run("prisma_migration", **arguments)["changed"]
    # Prisma itself refuses this for ever after a rollback (P3008).
    three.down(REACTIONS[0])
    assert three.run("prisma_migration", **arguments)["recorded"] == [REACTIONS[0]]


def test_recording_a_migration_without_its_file_is_refused(three):
    refused(three, three.run("prisma_migration", state="applied", migrations=["20260109_x"]), "has no migration.sql")
