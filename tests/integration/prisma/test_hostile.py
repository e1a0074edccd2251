"""Scripts that mislead the bookkeeping, end the transaction unseen, or lose data that no statement of theirs names."""

from __future__ import annotations

import pytest

from .scene import INIT, REACTIONS, RENAME, refused

CONSENT = {"target": "v1", "confirm_data_loss": "v1"}
TRIGGER = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;"
ON_HISTORY = "ON _prisma_migrations FOR EACH ROW EXECUTE FUNCTION f();"
OWN_ROW = f"UPDATE _prisma_migrations SET rolled_back_at = NULL WHERE migration_name = '{RENAME[0]}'"

MISLEADING = {
    "a trigger that takes the mark away": TRIGGER.format("NEW.rolled_back_at := NULL; RETURN NEW;")
    + f"CREATE TRIGGER t BEFORE UPDATE {ON_HISTORY}",
    "a trigger that changes what the mark says": TRIGGER.format("NEW.checksum := 'x'; RETURN NEW;")
    + f"CREATE TRIGGER t BEFORE UPDATE {ON_HISTORY}",
    "a trigger that marks another row": TRIGGER.format(
        f"UPDATE _prisma_migrations SET rolled_back_at = now() WHERE migration_name = '{INIT[0]}' "
        "AND rolled_back_at IS NULL; RETURN NULL;"
    )
    + f"CREATE TRIGGER t AFTER UPDATE {ON_HISTORY}",
    "a trigger that waits for the commit": TRIGGER.format(f"{OWN_ROW} AND rolled_back_at IS NOT NULL; RETURN NULL;")
    + "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON _prisma_migrations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "WHEN (OLD.rolled_back_at IS NULL) EXECUTE FUNCTION f();",
    "a rule that deletes another row": "CREATE RULE r AS ON UPDATE TO _prisma_migrations DO ALSO "
    f"DELETE FROM _prisma_migrations WHERE migration_name = '{INIT[0]}';",
    "row security that hides the row": "ALTER TABLE _prisma_migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL "
    f"SECURITY; CREATE POLICY p ON _prisma_migrations USING (migration_name <> '{RENAME[0]}');",
    "a view in place of the table": "ALTER TABLE _prisma_migrations RENAME TO hidden; "
    "CREATE VIEW _prisma_migrations AS SELECT * FROM hidden;"
    + TRIGGER.format("RETURN NEW;")
    + f"CREATE TRIGGER t INSTEAD OF UPDATE {ON_HISTORY}",
}


@pytest.mark.parametrize("how", MISLEADING)
def test_a_script_cannot_unmake_its_bookkeeping_or_touch_another_rows(three, how):
    three.write(RENAME[0], None, MISLEADING[how])
    history = "SELECT id, migration_name, checksum, rolled_back_at FROM {} ORDER BY id"
    before = three.sql(history.format("_prisma_migrations"))
    result = three.down(RENAME[0], **CONSENT)
    assert result["failed"] and RENAME[0] in result["msg"], result
    assert not result["changed"] and three.sql(history.format("_prisma_migrations")) == before


def test_a_cursor_that_the_commit_would_read_is_closed_before(three):
    function = f"CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {OWN_ROW}; RETURN 1; END $$;"
    three.write(RENAME[0], None, f"{function} DECLARE c CURSOR WITH HOLD FOR SELECT g();")
    assert three.down(RENAME[0], **CONSENT)["changed"]
    assert three.live() == [INIT[0], REACTIONS[0]]


# PostgreSQL reads more statements here than the script seems to have.
SMUGGLED = {
    "standard_conforming_strings": "SET standard_conforming_strings = off; SELECT '\\''; COMMIT; --'\n;",
    "set_config": "SELECT set_config('standard_conforming_strings', 'off', false); SELECT '\\''; COMMIT; --'\n;",
    "a string that goes on": "SELECT E'a'\n'\\''; COMMIT; --'\n;",
    "a comment that a carriage return ends": "SELECT 1 -- x\r; COMMIT; SELECT 2\n;",
}


@pytest.mark.parametrize("hidden", [(), ("pglast",)], ids=["pglast", "no pglast"])
@pytest.mark.parametrize("how", SMUGGLED)
def test_a_commit_cannot_be_smuggled_in(three, how, hidden):
    three.write(RENAME[0], None, f"DROP TABLE reactions; {SMUGGLED[how]}")
    before = three.state()
    refused(three, three.down(RENAME[0], **CONSENT, without=hidden))
    assert three.state() == before


@pytest.mark.parametrize("hidden", [(), ("pglast",)], ids=["pglast", "no pglast"])
def test_no_statement_is_lost_in_a_file_whose_lines_end_in_carriage_returns(three, hidden):
    three.write(RENAME[0], None, f"SELECT 1;\r-- the column\r{RENAME[2]}\r")
    result = three.down(RENAME[0], **CONSENT, without=hidden)
    assert result.get("failed") or three.columns("users") == ["id", "name"], result


@pytest.mark.parametrize("transaction", ["all", "each"])
def test_a_temporary_table_of_one_script_is_not_what_the_next_one_changes(three, transaction):
    three.write(REACTIONS[0], None, "CREATE TEMP TABLE users AS SELECT * FROM users; DROP TABLE reactions;")
    result = three.down(to_migrations=[INIT[0]], transaction=transaction, **CONSENT)
    assert result["changed"], result
    assert three.columns("public.users") == ["id", "name"]


def test_the_roles_own_reading_of_strings_is_not_assumed(three):
    admin = three.connect()
    admin.execute("ALTER ROLE app SET standard_conforming_strings = off")
    try:
        three.write(RENAME[0], None, "DROP TABLE reactions; SELECT '\\''; COMMIT; --'\n; SELECT 1/0;")
        before = three.state()
        refused(three, three.down(RENAME[0], **CONSENT), "division by zero")
        assert three.state() == before
    finally:
        admin.execute("ALTER ROLE app RESET standard_conforming_strings")


WIPE = "CREATE FUNCTION {}wipe({}) RETURNS {} LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.users; RETURN {}; END $$;"
LOSING = {
    "a rule": "CREATE TABLE x (i int); CREATE RULE r AS ON INSERT TO x DO ALSO DELETE FROM users; "
    "INSERT INTO x VALUES (1);",
    "a trigger": TRIGGER.format("DELETE FROM users; RETURN NULL;")
    + "CREATE TABLE x (i int); CREATE TRIGGER t AFTER INSERT ON x FOR EACH ROW EXECUTE FUNCTION f(); "
    "INSERT INTO x VALUES (1);",
    "a view": WIPE.format("", "", "int", "1")
    + "CREATE VIEW v AS SELECT wipe() AS w; CREATE TABLE x AS SELECT * FROM v;",
    "a default": WIPE.format("", "", "int", "1")
    + "ALTER TABLE reactions ADD COLUMN c int DEFAULT wipe(); INSERT INTO reactions VALUES (5);",
    "a check": WIPE.format("", "", "bool", "true")
    + "INSERT INTO reactions VALUES (1); ALTER TABLE reactions ADD CHECK (wipe());",
    "a function that is called like one of PostgreSQL's": "CREATE SCHEMA e;"
    + WIPE.format("e.", "text", "text", "$1").replace("wipe", "lower")
    + "SELECT e.lower('x');",
    "an operator": WIPE.format("", "int, int", "int", "1")
    + "CREATE OPERATOR |#| (LEFTARG = int, RIGHTARG = int, FUNCTION = wipe); SELECT 1 |#| 2;",
    "a temporary table of the same name": "CREATE TEMP TABLE users (id int); DELETE FROM public.users;",
    "dropping a temporary table and then the real one": "CREATE TEMP TABLE users (id int); DROP TABLE users; "
    "DROP TABLE users;",
    "a partition of a table that is dropped": "CREATE TABLE p (LIKE users) PARTITION BY LIST (id); "
    "ALTER TABLE p ATTACH PARTITION users DEFAULT; DROP TABLE p;",
    "a schema that is renamed": "ALTER SCHEMA public RENAME TO q; DELETE FROM q.users; "
    "ALTER SCHEMA q RENAME TO public;",
    "a view whose row type is a column": "DROP VIEW v0 CASCADE;",
}


@pytest.mark.parametrize("how", LOSING)
def test_no_row_and_no_value_is_lost_without_consent_by(three, how):
    three.sql("CREATE VIEW v0 AS SELECT 1 AS a; CREATE TABLE uses (id int, c v0); INSERT INTO uses VALUES (1, ROW(1))")
    before = three.state()
    three.write(RENAME[0], None, LOSING[how])
    refused(three, three.down(RENAME[0]), "data would be lost")
    assert three.state() == before
