"""What happens to each migration, what that loses, and what keeps the database from going down."""

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _plan_database
from plans import DOWN_DATABASE, FULL, codes, plan, refused, with_git
from rollback_readings import (
    INIT,
    MIGRATIONS,
    POSTS,
    REACTED,
    REACTIONS,
    RENAME,
    RENAMED,
    container,
    history,
    loss,
    migration,
    recorded,
    stack,
)

READY = {"path": "/backups/run1", "bytes": 5000, "client_version": "17.6", "problems": [], "warnings": []}


def test_a_backup_is_planned_where_data_is_lost():
    made = plan(database=history(backup=READY), backup=True)
    assert made["database"]["backup"] == {"path": "/backups/run1", "bytes": 5000, "client_version": "17.6"}
    assert made["refusals"] == []


@pytest.mark.parametrize(
    "changes", [{"backup": False}, {"backup": True, "policy": "keep"}, {"backup": True, "failed": "mark_only"}]
)
def test_no_backup_is_planned_where_it_is_not_wanted_or_nothing_is_lost(changes):
    rows = [migration(INIT), migration(POSTS), RENAMED, REACTED]
    if changes.get("failed"):
        rows = [migration(INIT), migration(POSTS), migration(REACTIONS, state="failed", loss=[loss()])]
    missing = {**READY, "problems": [{"code": "backup_client_missing", "message": "no pg_dump", "next": "install it"}]}
    made = plan(database=history(*rows, backup=missing), **changes)
    assert made["database"]["backup"] is None
    assert "backup_client_missing" not in codes(made)


def test_a_backup_that_cannot_be_made_is_a_refusal_of_the_host_that_would_make_it():
    problems = [
        {"code": "backup_client_missing", "message": "no pg_dump", "next": "apt-get install postgresql-client-17"},
        {"code": "backup_disk_full", "message": "1 MB free", "next": "df -h"},
    ]
    made = plan(database=history(backup={**READY, "problems": problems}), backup=True, runner="app1")
    assert [(entry["host"], entry["code"]) for entry in made["refusals"]] == [
        ("app1", "backup_client_missing"),
        ("app1", "backup_disk_full"),
    ]
    assert refused(made, "backup_client_missing")["next"] == "apt-get install postgresql-client-17"


def test_what_is_to_know_of_the_client_is_a_warning():
    made = plan(database=history(backup={**READY, "warnings": ["pg_dump 18 is newer"]}), backup=True)
    assert "pg_dump 18 is newer" in made["warnings"]


def test_writers_that_would_not_be_started_again_are_a_refusal_where_the_database_goes_down():
    entry = refused(plan(writers=("api", "worker")), "writers_unsupported")
    assert "worker" in entry["message"] and "'api'" not in entry["message"]
    assert plan(writers=("api",))["refusals"] == []
    assert plan(writers=("api", "worker"), policy="keep", consent="")["refusals"] == []


def test_losing_data_without_consent_is_refused_and_says_what_would_be_lost():
    made = plan(consent="")
    assert refused(made, "data_loss") == {
        "host": "database",
        "code": "data_loss",
        "message": "going to v1.1.0 loses data: 3 rows of public.reactions (drop table)",
        "next": "if that may be lost: -e rollback_confirm_data_loss=v1.1.0",
    }


@pytest.mark.parametrize("consent", ["true", "yes", "v1.0.0", "V1.1.0"])
def test_consent_names_the_target_and_nothing_else(consent):
    assert f"the consent given is for '{consent}'" in refused(plan(consent=consent), "data_loss")["message"]


def test_a_loss_of_no_rows_needs_no_consent_and_an_unknown_one_does():
    rows = [migration(INIT), migration(POSTS), RENAMED]
    assert plan(database=history(*rows, dict(REACTED, loss=[loss(0)])), consent="")["refusals"] == []
    made = plan(database=history(*rows, dict(REACTED, loss=[loss(None)])), consent="")
    assert "an unknown number of rows" in refused(made, "data_loss")["message"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (loss(3), "3 rows of public.reactions (drop table)"),
        (loss(1), "1 row of public.reactions (drop table)"),
        (loss(0), "0 rows of public.reactions (drop table)"),
        (loss(None, "drop_column", "public.a.b"), "an unknown number of rows of public.a.b (drop column)"),
        ({}, "an unknown number of rows of unknown (unknown)"),
    ],
)
def test_a_loss_reads_as_a_sentence(entry, text):
    assert _plan_database.loss_text(entry) == text


def test_a_database_without_a_history_is_a_refusal():
    made = plan(database=history(initialized=False))
    assert "?schema=" in refused(made, "history_missing")["next"]
    assert made["database"]["down"] == []


def test_a_target_whose_migrations_nobody_knows_is_a_refusal():
    reading = with_git(stack(), target_migrations=None)
    reading["ledger"]["releases"] = [recorded("v1.1.0", migrations=None)]
    assert "v1.1.0" in refused(plan({"app1": reading}), "target_unknown")["message"]


def test_going_to_a_release_that_needs_more_migrations_is_a_deploy():
    entry = refused(plan({"app1": stack(runs="v1.1.0", target="v1.2.0")}, history(migration(INIT), target="v1.2.0"),
                         release="v1.2.0"), "forward")  # fmt: skip
    assert f"{POSTS}, {RENAME}, {REACTIONS}" in entry["message"]
    assert entry["next"] == "deploy it with your pipeline"


def test_a_migration_that_was_rolled_back_is_not_applied():
    rows = [migration(INIT), migration(POSTS, state="rolled_back")]
    assert POSTS in refused(plan(database=history(*rows)), "forward")["message"]


def test_what_stands_in_the_way_of_a_down_script_is_a_refusal():
    problem = {"code": "down_missing", "message": f"{RENAME} has no down.sql", "next": "write it"}
    rows = [migration(INIT), migration(POSTS), dict(RENAMED, problems=[problem]), REACTED]
    assert refused(plan(database=history(*rows)), "down_missing") == dict(problem, host="app1")


def test_what_is_kept_needs_no_down_script():
    problem = {"code": "down_missing", "message": f"{RENAME} has no down.sql", "next": "write it"}
    rows = [migration(INIT), migration(POSTS), dict(RENAMED, problems=[problem]), REACTED]
    assert plan(database=history(*rows), policy="keep")["refusals"] == []


def test_a_failed_migration_is_refused_until_the_operator_says_what_to_do_with_it():
    problem = {"code": "failed", "message": f"{RENAME} failed", "next": "look"}
    missing = {"code": "down_missing", "message": f"{RENAME} has no down.sql", "next": "write it"}
    failed = dict(RENAMED, state="failed", problems=[problem, missing])
    rows = history(migration(INIT), migration(POSTS), failed, REACTED)
    assert [code for code in codes(plan(database=rows)) if code != "data_loss"] == ["failed", "down_missing"]
    assert "failed" not in codes(plan(database=rows, failed="run_down"))
    assert "down_missing" in codes(plan(database=rows, failed="run_down"))
    made = plan(database=rows, failed="mark_only")
    assert made["refusals"] == []
    assert [entry["price"] for entry in made["database"]["down"] if entry["name"] == RENAME] == [[]]


def test_statements_outside_a_transaction_are_refused_where_the_plan_is_one():
    rows = history(migration(INIT), migration(POSTS), dict(RENAMED, outside_transaction=True), REACTED)
    assert "rollback_transaction=each" in refused(plan(database=rows), "transaction")["next"]
    assert plan(database=rows, transaction="each")["refusals"] == []


@pytest.mark.parametrize(("rows", "warned"), [((), True), ((migration(INIT), migration(POSTS)), False)])
def test_without_pglast_the_plan_warns_where_that_matters(rows, warned):
    made = plan(database=history(*rows, parser=""))
    assert any("pglast is not on app1" in warning for warning in made["warnings"]) is warned


def test_a_database_that_cannot_be_read_is_a_refusal():
    made = plan(database=DOWN_DATABASE)
    assert refused(made, "database_unreachable")["message"] == "connection refused"
    assert made["database"]["reachable"] is False


def test_a_reading_of_the_database_that_failed_brings_its_own_code_and_way_out():
    made = plan(database={"error": "no psycopg", "code": "library_missing", "next": "apt-get install python3-psycopg"})
    assert refused(made, "library_missing")["next"] == "apt-get install python3-psycopg"


def shared() -> dict:
    """Return a host whose running release has the target's migrations."""
    reading = stack(runs="v1.3.0", target="v1.2.0")
    reading["ledger"]["releases"] = [recorded("v1.3.0", "bad"), recorded("v1.2.0")]
    return reading


@pytest.mark.parametrize("parts", [FULL, ("application",)])
def test_a_database_that_is_down_is_not_needed_by_releases_that_share_their_last_migration(parts):
    made = plan({"app1": shared()}, DOWN_DATABASE, release="v1.2.0", consent="", parts=parts)
    assert made["refusals"] == []
    assert made["online"] is True
    assert made["changed"] is True
    assert "share their last migration" in made["warnings"][0]


def test_the_release_that_runs_is_the_one_of_the_containers_not_the_newest_in_the_ledger():
    # A deploy of v1.2.0 that went unrecorded: the ledger still believes in v1.1.0, which has the target's migrations.
    reading = stack(runs="v1.2.0", target="v1.1.0")
    reading["ledger"]["current"] = "v1.1.0"
    assert codes(plan({"app1": reading}, DOWN_DATABASE)) == ["database_unreachable"]


def test_what_is_wrong_with_the_reading_itself_stops_releases_that_share_their_last_migration_too():
    missing = {"error": "no psycopg", "code": "library_missing", "next": "apt-get install python3-psycopg"}
    assert codes(plan({"app1": shared()}, missing, release="v1.2.0")) == ["library_missing"]


def test_a_rollback_of_the_database_alone_needs_the_database():
    made = plan({"app1": shared()}, DOWN_DATABASE, release="v1.2.0", parts=("database",))
    assert codes(made) == ["database_unreachable"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda reading: reading["ledger"].update(releases=[recorded("v1.3.0", migrations=None), recorded("v1.2.0")]),
        lambda reading: reading["ledger"].update(releases=[recorded("v1.2.0")]),
        lambda reading: reading["git"].update(target_migrations=[INIT]),
    ],
    ids=["not recorded which", "not recorded at all", "other migrations"],
)
def test_a_database_that_is_down_is_needed_unless_the_ledgers_prove_otherwise(break_it):
    reading = shared()
    break_it(reading)
    assert codes(plan({"app1": reading}, DOWN_DATABASE, release="v1.2.0")) == ["database_unreachable"]


def test_hosts_that_run_different_releases_need_the_database():
    second = stack(runs="v1.1.0", target="v1.2.0")
    second["ledger"].update(current="v1.1.0", releases=[recorded("v1.1.0")])
    made = plan({"app1": shared(), "app2": second}, DOWN_DATABASE, release="v1.2.0")
    assert codes(made) == ["database_unreachable"]


# Parts


def test_the_application_alone_is_refused_across_a_migration_that_it_does_not_bear():
    entry = refused(plan(parts=("application",)), "boundary")
    assert (
        entry["message"]
        == f"v1.1.0 needs the schema without {REACTIONS}, {RENAME}: it renames the column body of posts"
    )
    assert entry["next"] == "ansible-playbook rollback_full.yml -e release=v1.1.0"


def test_a_refusal_of_the_application_alone_does_not_ask_for_a_consent_that_would_not_help():
    problem = {"code": "down_missing", "message": f"{RENAME} has no down.sql", "next": "write it"}
    rows = [migration(INIT), migration(POSTS), dict(RENAMED, problems=[problem]), REACTED]
    assert codes(plan(database=history(*rows), parts=("application",), consent="")) == ["boundary"]


def test_the_database_alone_is_refused_where_an_api_still_needs_the_newer_schema():
    entry = refused(plan({"app1": stack(runs="v1.1.0"), "app2": stack()}, parts=("database",)), "boundary")
    assert entry["message"] == "api on app2 does not run v1.1.0 and needs the migrations that would go down"


@pytest.mark.parametrize("state", ["exited", "restarting", None])
def test_the_database_alone_is_refused_where_an_api_of_another_release_would_start_again(state):
    reading = stack()
    reading["services"]["api"]["running"] = container("api", "v1.2.0", state=state) if state else None
    assert "boundary" in codes(plan({"app1": reading}, parts=("database",)))


def test_the_database_alone_goes_back_where_the_api_is_the_targets_running_or_not():
    stopped = stack(runs="v1.1.0")
    stopped["services"]["api"]["running"] = container("api", "v1.1.0", state="exited")
    web = stack(services=("web",))
    stacks = {"app1": stack(runs="v1.1.0"), "app2": stopped, "web1": web}
    components = {"app1": ["application"], "app2": ["application"], "web1": ["frontend"]}
    made = plan(stacks, parts=("database",), components=components)
    assert made["refusals"] == []
    assert [made["hosts"][host]["stop_writers"] for host in stacks] == [True, True, False]


@pytest.mark.parametrize("parts", [("application",), ("database",), ("application", "frontend")])
def test_a_part_goes_back_alone_where_nothing_has_to_go_down(parts):
    assert plan(parts=parts, policy="keep", consent="")["refusals"] == []


def test_the_database_goes_with_the_application_when_both_are_asked_for():
    assert plan(parts=("application", "database"))["refusals"] == []


# What a target contains


def test_a_checkout_tells_what_the_target_contains_and_a_ledger_where_none_has_it():
    silent = with_git(stack(), target_migrations=None)
    assert _plan_database.target_migrations({"app1": silent, "app2": stack()}, "v1.1.0") == MIGRATIONS["v1.1.0"]
    assert _plan_database.target_migrations({"app1": silent}, "v1.0.0") == [INIT]
    assert _plan_database.target_migrations({"app1": silent}, "v9.0.0") is None


def test_a_target_without_migrations_is_known_to_have_none():
    assert _plan_database.target_migrations({"app1": with_git(stack(), target_migrations=[])}, "v1.1.0") == []
