"""Through PgBouncer in transaction mode, where every transaction may run on another connection."""

from __future__ import annotations

import contextlib
import os
import subprocess

import psycopg
import pytest

from .conftest import DATABASE, PASSWORD, folder_of_the_server, free_port
from .scene import INIT, REACTIONS, RENAME, in_background, refused, wait_until

PGBOUNCER = "/usr/sbin/pgbouncer"


class Pool:
    """PgBouncer in front of a stack's database, with one connection to it that all clients share."""

    def __init__(self, stack, port: int) -> None:
        self.port = port
        self.url = stack.url.replace(f":{stack.port}/", f":{port}/")

    def connect(self, **more) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="app", password=PASSWORD, dbname=DATABASE, autocommit=True, **more
        )

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False


@pytest.fixture
def pool(three):
    if not os.path.exists(PGBOUNCER):
        pytest.fail("PgBouncer is not here: run scripts/needs-database", pytrace=False)
    pool = Pool(three, free_port())
    # PgBouncer logs in with what its client proved the password with.
    ((secret,),) = three.connect().execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").fetchall()
    three.close()
    with folder_of_the_server("pgbouncer-") as home:
        (home / "users").write_text(f'"app" "{secret}"\n')
        (home / "settings").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={three.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {pool.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {home}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 1\nquery_wait_timeout = 5\n"
        )
        # As PostgreSQL, it refuses to run as root.
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        process = subprocess.Popen([PGBOUNCER, "--quiet", str(home / "settings")], cwd=home, **user)
        try:
            wait_until(pool.answers)
            yield pool
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("more", ["", "&pgbouncer=true"], ids=["plain", "pgbouncer=true"])
def test_a_history_is_read_and_rolled_back_through_it(three, pool, more):
    url = pool.url + more
    direct, pooled = three.info(), three.info(database_url=url)
    assert pooled["applied"] == [INIT[0], RENAME[0], REACTIONS[0]]
    assert pooled["migrations"] == direct["migrations"] and pooled["schema"] == direct["schema"]
    before = three.state()
    checked = three.down(to_migrations=[INIT[0]], database_url=url, check=True)
    assert checked["changed"] and three.state() == before
    result = three.down(to_migrations=[INIT[0]], database_url=url)
    assert result["changed"] and result["applied_after"] == checked["applied_after"] == [INIT[0]] == three.live()
    assert three.sql("SELECT count(rolled_back_at) FROM _prisma_migrations") == [(2,)]
    assert three.tables() == ["users"] and three.columns("users") == ["id", "name"]
    assert three.sql("SELECT * FROM users") == [(1, "Ada")]
    assert not three.down(to_migrations=[INIT[0]], database_url=url)["changed"]


def test_a_failing_script_changes_nothing_through_it(three, pool):
    three.write(RENAME[0], None, "ALTER TABLE users RENAME COLUMN full_name TO name; SELECT 1/0;")
    before = three.state()
    refused(three, three.down(to_migrations=[INIT[0]], database_url=pool.url), "22012")
    assert three.state() == before


SEEN = """SELECT pg_backend_pid(), current_user::text, session_user::text,
    (SELECT array_agg(name || '=' || setting ORDER BY name) FROM pg_settings WHERE name <> 'application_name'),
    (SELECT array_agg(objid) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
    (SELECT count(*) FROM pg_prepared_statements)"""


@pytest.mark.parametrize("succeeds", [True, False], ids=["committed", "undone"])
def test_no_setting_role_lock_or_statement_reaches_the_next_client(three, pool, succeeds):
    with pool.connect() as client:
        before = client.execute(SEEN, prepare=False).fetchone()
    three.write(
        RENAME[0],
        None,
        "ALTER TABLE users RENAME COLUMN full_name TO name; SET search_path = ''; SET lock_timeout = 7;"
        "SELECT set_config('statement_timeout', '7', false); SET ROLE app; SET TimeZone = 'Asia/Tokyo';"
        + ("" if succeeds else "SELECT 1/0;"),
    )
    result = three.down(to_migrations=[INIT[0]], database_url=pool.url)
    assert result["changed"] is succeeds
    with pool.connect() as client:
        assert client.execute(SEEN, prepare=False).fetchone() == before


def test_a_deploy_that_holds_prismas_lock_is_waited_for_and_named_through_it(three, pool):
    deploy = three.connect(user="app", application_name="prisma-deploy")
    deploy.execute("SELECT pg_advisory_lock(72707369)")
    before = three.state()
    refused(three, three.down(REACTIONS[0], database_url=pool.url, lock_wait=0.3), "72707369", "prisma-deploy")
    assert three.state() == before
    finished = in_background(lambda: three.down(REACTIONS[0], database_url=pool.url))
    wait_until(lambda: three.info(database_url=pool.url)["lock"]["held"])
    deploy.close()
    assert finished()["changed"] and three.tables() == ["users"] and three.live() == [INIT[0], RENAME[0]]


def test_a_lock_that_a_deploy_through_it_left_on_the_shared_connection_is_not_taken_for_ones_own(three, pool):
    with pool.connect() as deploy:
        deploy.execute("SELECT pg_advisory_lock(72707369)")
    before = three.state()
    assert three.info()["lock"]["held"]
    assert three.info(database_url=pool.url)["lock"]["held"]
    refused(three, three.down(REACTIONS[0], database_url=pool.url, lock_wait=0.3), "72707369")
    assert three.state() == before


def test_the_connection_that_the_pool_keeps_is_not_another_session(three, pool):
    assert three.info(database_url=pool.url)["sessions"] == []
    with pool.connect(application_name="api") as api:
        api.execute("SELECT 1")
    # Seen from beside the pool, it may be a writer's.
    refused(three, three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=0.1), "api")
    result = three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=0.1, database_url=pool.url)
    assert result["changed"] and three.tables() == ["users"] and three.live() == [INIT[0], RENAME[0]]


def test_options_in_the_url_are_refused_by_it_and_the_message_says_so(three, pool):
    before = three.state()
    url = f"{pool.url}&options=-c%20statement_timeout%3D5s"
    for result in (three.info(database_url=url), three.down(REACTIONS[0], database_url=url)):
        refused(three, result, "Cannot connect", "unsupported startup parameter: options")
    assert three.state() == before


def test_a_statement_outside_a_transaction_is_refused_through_it_and_leaves_nothing(three, pool):
    three.sql("CREATE INDEX names ON users (full_name)")
    three.write(
        REACTIONS[0], None, "-- rollback: no-transaction\nDROP INDEX CONCURRENTLY names;\nDROP TABLE reactions;"
    )
    before = three.state()
    with pool.connect() as client:
        seen = client.execute(SEEN, prepare=False).fetchone()
    # PgBouncer is recognised without a word about it in the URL.
    for check in (True, False):
        result = three.down(REACTIONS[0], transaction="each", database_url=pool.url, check=check)
        refused(three, result, "connection pooler", "direct URL")
    with pool.connect() as client:
        assert client.execute(SEEN, prepare=False).fetchone() == seen
    assert three.state() == before and three.sql("SELECT to_regclass('names')::text") == [("names",)]
    assert three.down(REACTIONS[0], transaction="each")["changed"]
    assert three.tables() == ["users"] and three.sql("SELECT to_regclass('names')") == [(None,)]
