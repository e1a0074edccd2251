"""Other sessions: deploys, clients, locks, and connections that die."""

from __future__ import annotations

import psycopg
import pytest

from .scene import INIT, REACTIONS, RENAME, in_background, refused, wait_until
from .wire import AFTER, BEFORE, Proxy, at_commit


def test_a_running_deploy_is_waited_for_and_named_when_it_takes_too_long(three):
    before = three.state()
    deploy = three.connect(user="app", application_name="prisma-deploy")
    deploy.execute("SELECT pg_advisory_lock(72707369)")
    assert three.info()["lock"]["holders"][0]["application_name"] == "prisma-deploy"
    result = three.down(REACTIONS[0], lock_wait=0.3)
    refused(three, result, "72707369", "prisma-deploy", "0.3 s")
    assert three.state() == before
    assert "prisma-deploy" in str(three.down(REACTIONS[0], check=True)["warnings"])


def test_the_rollback_goes_on_as_soon_as_the_deploy_lets_go(three):
    deploy = three.connect()
    deploy.execute("SELECT pg_advisory_lock(72707369)")
    finished = in_background(lambda: three.down(REACTIONS[0]))
    wait_until(
        lambda: (
            three.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'connectin.rollback'") == [(1,)]
        )
    )
    deploy.close()
    assert finished()["changed"]


def test_a_history_that_changes_while_waiting_for_the_lock_is_not_touched(three):
    deploy = three.connect()
    deploy.execute("SELECT pg_advisory_lock(72707369)")
    finished = in_background(lambda: three.down(REACTIONS[0]))
    wait_until(
        lambda: (
            three.sql(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'connectin.rollback' AND query ~ 'ROLLBACK'"
            )
            == [(1,)]
        )
    )
    three.row("20260104_new")
    before = three.state()
    deploy.close()
    refused(three, finished(), "history changed")
    assert three.state() == before


def test_a_deploy_cannot_start_between_the_script_and_the_commit_even_with_its_lock_disabled(three):
    gate = three.connect()
    gate.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    finished = in_background(lambda: three.down(RENAME[0], lock_timeout=0))
    wait_until(lambda: three.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
    deploy = three.connect(user="app", options="-c lock_timeout=100")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        deploy.execute("INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('x', 'y', 'z')")
    assert deploy.execute("SELECT count(*) FROM _prisma_migrations").fetchone() == (3,)
    assert deploy.execute("SELECT pg_try_advisory_lock(72707369)").fetchone() == (False,)
    gate.execute("COMMIT")
    assert finished()["changed"]


def test_a_deploy_that_queues_behind_is_a_warning(three):
    gate = three.connect()
    gate.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    finished = in_background(lambda: three.down(RENAME[0], lock_timeout=0))
    wait_until(lambda: three.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
    deploy = three.connect()
    queued = in_background(lambda: deploy.execute("SELECT pg_advisory_lock(72707369)"))
    wait_until(lambda: three.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(2,)])
    gate.execute("COMMIT")
    assert "waits for Prisma's lock" in str(finished()["warnings"])
    queued()


def test_a_table_that_stays_locked_is_tried_again_and_then_given_up(three):
    before = three.state()
    reader = three.connect()
    reader.execute("BEGIN; SELECT * FROM users")
    result = three.down(RENAME[0], lock_timeout=0.1, retries=1)
    refused(three, result, "55P03", "lock_timeout")
    reader.execute("COMMIT")
    assert three.state() == before


def test_a_table_that_is_let_go_meanwhile_is_rolled_back_by_a_retry(three):
    reader = three.connect()
    reader.execute("BEGIN; SELECT * FROM users")
    finished = in_background(lambda: three.down(RENAME[0], lock_timeout=0.2, retries=5))
    wait_until(lambda: three.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
    wait_until(lambda: three.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)])
    reader.execute("COMMIT")
    assert finished()["changed"] and three.columns("users") == ["id", "name"]


def test_a_statement_that_takes_too_long_is_cut_off_and_undone(three):
    three.write(REACTIONS[0], None, "SET statement_timeout = 0; DROP TABLE reactions;")
    three.write(RENAME[0], None, "SELECT pg_sleep(20);")
    before = three.state()
    result = three.down(to_migrations=[INIT[0]], statement_timeout=0.3, target="v1", confirm_data_loss="v1")
    refused(three, result, "57014", "statement_timeout")
    assert three.state() == before


def test_another_session_is_refused_by_name_and_gone_it_is_not(three):
    before = three.state()
    api = three.connect(user="app", application_name="api-on-app1")
    result = three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=0.2)
    refused(three, result, "api-on-app1", "0.2 s")
    assert result["sessions"][0]["pid"] == api.info.backend_pid and three.state() == before
    assert "api-on-app1" in str(three.down(REACTIONS[0], require_no_sessions=True, check=True)["warnings"])
    assert three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=0.2, check=True)["changed"]
    finished = in_background(lambda: three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=10))
    wait_until(
        lambda: (
            api.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'connectin.rollback' AND query ~ 'pg_stat_activity'"
            ).fetchone()
            == (1,)
        )
    )
    api.close()
    assert finished()["changed"]


def test_a_session_whose_details_the_role_may_not_see_is_still_there(three):
    three.connect(user="postgres", application_name="console")
    assert [each["application_name"] for each in three.info()["sessions"]] == ["console"]
    refused(three, three.down(REACTIONS[0], require_no_sessions=True, sessions_wait=0.1), "console")


def test_a_row_written_after_the_plan_was_counted_needs_consent_too(three):
    deploy = three.connect()
    deploy.execute("SELECT pg_advisory_lock(72707369)")
    finished = in_background(lambda: three.down(REACTIONS[0], target="v1"))
    wait_until(
        lambda: (
            three.sql(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'connectin.rollback' AND query ~ 'ROLLBACK'"
            )
            == [(1,)]
        )
    )
    three.sql("INSERT INTO reactions VALUES (1)")
    deploy.close()
    refused(three, finished(), "data would be lost")
    assert three.tables() == ["reactions", "users"]


def test_a_commit_whose_answer_was_lost_is_found_committed(three):
    proxy = Proxy(three.port, at_commit(AFTER))
    result = three.down(REACTIONS[0], database_url=proxy.url(three.url))
    assert result["changed"] and "says that it committed" in str(result["warnings"]), result
    assert three.live() == [INIT[0], RENAME[0]] == result["applied_after"] and three.tables() == ["users"]


def test_a_commit_that_never_arrived_is_found_undone(three):
    before = three.state()
    proxy = Proxy(three.port, at_commit(BEFORE))
    result = three.down(REACTIONS[0], database_url=proxy.url(three.url))
    refused(three, result, "did not commit")
    assert result["outcome"] == "aborted" and three.state() == before


def test_a_commit_nobody_can_ask_about_is_called_unknown_with_the_query_to_type(three):
    proxy = Proxy(three.port, at_commit(AFTER), left=0)
    result = three.down(REACTIONS[0], database_url=proxy.url(three.url), lock_wait=0.1)
    assert result["failed"] and result["outcome"] == "unknown" and "SELECT txid_status(" in result["msg"]
    assert result["changed"], "it may be, and the release from before must not be started on it"


def test_a_commit_that_is_found_but_cannot_be_read_again_is_a_failure_that_says_it_changed(three):
    proxy = Proxy(three.port, at_commit(AFTER), left=1)
    result = three.down(REACTIONS[0], database_url=proxy.url(three.url))
    assert result["failed"] and result["changed"] and result["outcome"] == "committed", result
    assert three.live() == [INIT[0], RENAME[0]]


def test_a_connection_that_dies_in_a_script_changes_nothing(three):
    before = three.state()
    three.write(REACTIONS[0], None, "DROP TABLE reactions; SELECT pg_terminate_backend(pg_backend_pid());")
    result = three.down(REACTIONS[0], target="v1", confirm_data_loss="v1")
    refused(three, result, "Nothing was changed")
    assert result["failed_migration"] == REACTIONS[0] and three.state() == before
