"""The same behaviour over psycopg 3 and psycopg2."""

from __future__ import annotations

import json

import pytest

from .conftest import NEWEST, PASSWORD, PASSWORD_IN_URL
from .scene import INIT, REACTIONS, RENAME, refused
from .wire import AFTER, BEFORE, Proxy, at_commit

# What is tested here does not depend on the server's version.
pytestmark = pytest.mark.parametrize("programs", [NEWEST], indirect=True, scope="session", ids=["newest"])

# The driver that is found, and the one that is hidden for it.
DRIVERS = {"psycopg": "psycopg2", "psycopg2": "psycopg"}
CONSENT = {"target": "v1", "confirm_data_loss": "v1"}
# What differs from run to run.
PASSING = ("duration_ms", "started_at", "rolled_back_at", "finished_at", "ids", "id", "pid", "path", "file")


@pytest.fixture(params=DRIVERS)
def driver(request):
    """Arguments of ``Stack.run`` that leave it one driver."""
    return {"without": (DRIVERS[request.param],)}


def lasting(value):
    """A result without what differs from run to run."""
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if key not in PASSING}
    return [lasting(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "extended"), [("psycopg", True), ("psycopg2", False)])
def test_it_is_really_that_driver(three, name, extended):
    # psycopg 3 leaves the parameters to PostgreSQL, psycopg2 writes them into the statement.
    with Proxy(three.port) as proxy:
        three.info(database_url=proxy.url(three.url), without=(DRIVERS[name],))
    assert any("$1" in statement for statement in proxy.statements) == extended


def test_a_rollback_tells_what_was_there_and_what_is_there_now(three, driver):
    three.sql("INSERT INTO reactions VALUES (1)")
    before = three.state()
    checked = three.down(to_migrations=[INIT[0]], check=True, **CONSENT, **driver)
    assert three.state() == before
    real = three.down(to_migrations=[INIT[0]], **CONSENT, **driver)
    assert real["plan"] == checked["plan"] and real["plan"][0]["loss"][0]["count"] == 1
    assert real["applied_after"] == [INIT[0]] == three.live() and three.columns("users") == ["id", "name"]
    assert [row["migration_name"] for row in real["ledger_before"]] == [REACTIONS[0], RENAME[0]]
    assert not three.down(to_migrations=[INIT[0]], **driver)["changed"]


def test_the_rows_are_marked_with_the_servers_time_and_deleted_where_that_is_wanted(three, driver):
    three.down(REACTIONS[0], **driver)
    assert three.sql(
        "SELECT count(*) FROM _prisma_migrations WHERE rolled_back_at BETWEEN now() - '1 min'::interval AND now()"
    ) == [(1,)]
    three.down(RENAME[0], record="delete", **driver)
    assert three.sql("SELECT migration_name FROM _prisma_migrations") == [(INIT[0],), (REACTIONS[0],)]


def test_a_failing_statement_is_named_by_its_line_and_position_inside_it(three, driver):
    path = three.write(RENAME[0], None, "\ufeffSELECT 'é';\r\n\r\nSELECT 'ü', 1,\r\n  nothing_like_it;\r\n")
    before = three.state()
    result = three.down(RENAME[0], **driver)
    refused(three, result, "line 4", "nothing_like_it", "42703")
    assert (result["line"], result["sqlstate"], result["file"]) == (4, "42703", str(path / "down.sql"))
    assert three.state() == before


def test_a_dependency_is_told_with_its_detail_and_a_row_is_not(three, driver):
    three.sql("CREATE VIEW v AS SELECT id FROM users")
    three.write(RENAME[0], None, "DROP TABLE users;")
    refused(three, three.down(RENAME[0], **CONSENT, **driver), "2BP01", "view v depends on table users")
    three.write(RENAME[0], None, "INSERT INTO users VALUES (1, 'Grace');")
    result = three.down(RENAME[0], **driver)
    refused(three, result, "23505")
    assert "Grace" not in json.dumps(result["msg"]) and "(1)" not in json.dumps(result["msg"])


def test_percent_signs_and_placeholders_run_as_they_are_written(three, driver):
    text = "100% %s %(name)s %% $1 {}"
    three.write(RENAME[0], None, f"{RENAME[2]}\nUPDATE users SET name = '{text}' WHERE name LIKE 'A%';\n")
    assert three.down(RENAME[0], **CONSENT, **driver)["changed"]
    assert three.sql("SELECT name FROM users") == [(text,)]


def test_a_nul_byte_is_refused_before_anything_runs(three, driver):
    three.write(RENAME[0], None, RENAME[2].encode() + b"\0DROP TABLE users;")
    before = three.state()
    refused(three, three.down(to_migrations=[INIT[0]], **driver), "NUL")
    assert three.state() == before


def test_every_notice_is_returned_with_its_severity_even_where_there_are_many(three, driver):
    three.write(
        RENAME[0],
        None,
        f"{RENAME[2]}\nDROP VIEW IF EXISTS nowhere;\n"
        "DO $$ BEGIN FOR n IN 1..120 LOOP RAISE NOTICE 'number %', n; END LOOP; RAISE WARNING 'mind'; END $$;",
    )
    notices = three.down(RENAME[0], **CONSENT, **driver)["rolled_back"][0]["notices"]
    assert notices[0] == 'NOTICE: view "nowhere" does not exist, skipping'
    assert notices[1:] == [f"NOTICE: number {number}" for number in range(1, 121)] + ["WARNING: mind"]


@pytest.mark.parametrize(("when", "outcome"), [(AFTER, "committed"), (BEFORE, "aborted")])
def test_a_commit_that_is_cut_off_is_found_out_about(three, driver, when, outcome):
    before = three.state()
    with Proxy(three.port, at_commit(when)) as proxy:
        result = three.down(REACTIONS[0], database_url=proxy.url(three.url), **driver)
    if outcome == "committed":
        assert result["changed"] and "says that it committed" in str(result["warnings"]), result
        assert three.live() == [INIT[0], RENAME[0]] == result["applied_after"]
    else:
        refused(three, result, "did not commit")
        assert result["outcome"] == outcome and three.state() == before


def test_a_backend_that_is_terminated_in_a_script_changes_nothing(three, driver):
    before = three.state()
    three.write(RENAME[0], None, f"{RENAME[2]}\nSELECT pg_terminate_backend(pg_backend_pid());")
    result = three.down(to_migrations=[INIT[0]], **CONSENT, **driver)
    refused(three, result, "Nothing was changed")
    assert (result["failed_migration"], result["line"]) == (RENAME[0], 2) and three.state() == before


def test_a_lock_that_is_not_to_be_had_is_tried_for_again_and_named(three, driver):
    reader = three.connect()
    reader.execute("BEGIN; SELECT * FROM users")
    before = three.state()
    refused(three, three.down(RENAME[0], lock_timeout=0.05, retries=1, **driver), "55P03", "lock_timeout")
    reader.execute("COMMIT")
    assert three.state() == before


@pytest.mark.parametrize(
    ("secret", "change"),
    [
        ("wr0ng%2Fpassword", lambda url: url.replace(PASSWORD_IN_URL, "wr0ng%2Fpassword")),
        (PASSWORD, lambda url: url.replace("/connectin?", "/nowhere?")),
        (PASSWORD, lambda url: url.replace("app:", "nobody:")),
        (PASSWORD, lambda url: url.replace("127.0.0.1", "nowhere.invalid")),
        (PASSWORD, lambda url: url.replace("?", "?options=-c%20nonsense%3D1&")),
    ],
    ids=["wrong password", "no such database", "no such role", "no such host", "an option the server refuses"],
)
def test_a_connection_that_fails_shows_no_password(three, driver, secret, change):
    result = three.info(database_url=change(three.url), **driver)
    refused(three, result, "Cannot connect")
    shown = json.dumps(result)
    assert not [part for part in (secret, secret.replace("%2F", "/"), PASSWORD, PASSWORD_IN_URL) if part in shown]


SCENARIOS = {
    "a rollback": (RENAME[2], {"migrations": [RENAME[0], REACTIONS[0]]}),
    "a failing statement": ("SELECT 1;\nSELECT 1/0;", {"migrations": [RENAME[0]]}),
    "a lost table": ("DROP TABLE users;", {"migrations": [RENAME[0]]}),
    "a row that is there": ("INSERT INTO users VALUES (1, 'x');", {"migrations": [RENAME[0]]}),
    "an error that a function raises": (
        "DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = 'a detail', HINT = 'a hint', ERRCODE = 'ZZ001'; END $$;",
        {"migrations": [RENAME[0]], **CONSENT},
    ),
    "an unknown name": (RENAME[2], {"migrations": ["x"]}),
    "two statements and a value of every kind": (
        f"{RENAME[2]} SELECT now(), 1.5::numeric, '{{1,2}}'::int[], NULL, '{{\"a\": 1}}'::jsonb, '\\x00'::bytea;",
        {"migrations": [RENAME[0]], **CONSENT},
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_drivers_tell_the_same(three, scenario):
    script, args = SCENARIOS[scenario]
    three.write(RENAME[0], None, script)
    told = []
    for hidden in DRIVERS.values():
        told.append(lasting(three.down(diff=True, without=(hidden,), **args)))
        three.sql("DROP TABLE IF EXISTS users, reactions; DELETE FROM _prisma_migrations")
        for name, up, _down in (INIT, RENAME, REACTIONS):
            three.sql(up)
            three.row(name, up)
        three.sql("INSERT INTO users VALUES (1, 'Ada')")
    assert told[0] == told[1]
