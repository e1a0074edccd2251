"""One plan for the fleet: what it changes, what it refuses, what it loses."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _plan
from rollback_readings import (
    INIT,
    MIGRATIONS,
    POSTS,
    REACTED,
    REACTIONS,
    RENAME,
    RENAMED,
    commit,
    container,
    digest,
    history,
    image,
    kept_build,
    loss,
    migration,
    recorded,
    stack,
)

FULL = ("application", "database", "frontend")


def options(hosts=("app1",), release="v1.1.0", consent="v1.1.0", **changes) -> _plan.Options:
    values = {
        "release": release,
        "parts": FULL,
        "policy": "auto",
        "consent": consent,
        "components": {host: ["application", "frontend"] for host in hosts},
        "services": {"application": "api", "frontend": "web"},
        "run_id": "run1",
        "runner": "app1",
        **changes,
    }
    return _plan.Options(**values)


def plan(stacks=None, database="default", **changes) -> dict:
    stacks = {"app1": stack()} if stacks is None else stacks
    given = history() if database == "default" else database
    return _plan.make_plan(stacks, given, options(tuple(stacks), **changes))


def codes(made: dict) -> list[str]:
    return [entry["code"] for entry in made["refusals"]]


def refused(made: dict, code: str) -> dict:
    """Return the one refusal with a code."""
    (found,) = (entry for entry in made["refusals"] if entry["code"] == code)
    return found


def with_git(reading: dict, **changes) -> dict:
    reading["git"].update(changes)
    return reading


# The plan that goes through


def test_a_plan_says_what_changes_on_every_host():
    made = plan({"app1": stack(), "app2": stack()})
    assert made["refusals"] == []
    assert made["release"] == "v1.1.0"
    assert made["coordinator"] == made["runner"] == "app1"
    assert made["run_id"] == "run1"
    assert made["parts"] == list(FULL)
    assert made["changed"] is True
    assert made["database"]["needed"] is made["database"]["reachable"] is True
    for host in ("app1", "app2"):
        entry = made["hosts"][host]
        assert entry["change"] is True
        assert entry["before"] == "v1.2.0"
        assert entry["commit"] == commit("v1.1.0")
        assert entry["checkout"] is True
        assert entry["fetch"] is False
        assert entry["stop_writers"] is True
        assert entry["services"]["api"] == {
            "part": "application",
            "image": image("api", "v1.1.0"),
            "digest": digest("api", "v1.1.0"),
            "build_id": None,
            "local": False,
            "before": "v1.2.0",
            "before_image_id": "sha256:" + "1" * 64,
            "before_build_id": "",
            "before_state": "running",
            "before_health": 503,
            "state": "running",
            "restarts": 0,
            "health": 503,
            "change": True,
            "overlap": False,
        }


def test_a_plan_carries_what_the_roles_need_to_act_on_a_host():
    reading = with_git(stack(), pins=["docker-compose.yml"])
    reading["env"]["differs"] = ["LOG_LEVEL"]
    reading["services"]["api"].update(
        running=container("api", "v1.2.0", restarts=4), target_local=True, health={"status": 503, "body": {"a": 1}}
    )
    reading["services"]["web"].update(running=None, health=None)
    entry = plan({"app1": reading})["hosts"]["app1"]
    assert entry["components"] == ["application", "frontend"]
    assert entry["pins"] == ["docker-compose.yml"]
    assert entry["env_differs"] == ["LOG_LEVEL"]
    assert entry["smoke"] is True
    api, web = entry["services"]["api"], entry["services"]["web"]
    assert (api["restarts"], api["health"], api["local"]) == (4, 503, True)
    assert (web["before"], web["state"], web["restarts"], web["health"]) == ("not running", "absent", 0, None)


def test_readings_are_not_changed_by_the_plan():
    stacks, database = {"app1": stack()}, history()
    before = deepcopy((stacks, database))
    plan(stacks, database)
    assert (stacks, database) == before


def test_a_migration_that_breaks_the_target_takes_everything_newer_with_it():
    made = plan()
    assert [(choice["name"], choice["reason"]) for choice in made["database"]["down"]] == [
        (REACTIONS, f"newer than {RENAME}, which goes down"),
        (RENAME, "it renames the column body of posts"),
    ]
    assert made["database"]["keep"] == []
    assert made["database"]["price"] == [dict(loss(), migration=REACTIONS)]
    assert made["database"]["before"] == MIGRATIONS["v1.2.0"]
    assert made["database"]["target_migrations"] == MIGRATIONS["v1.1.0"]


def test_migrations_that_only_add_are_kept_and_the_rollback_is_online():
    made = plan(database=history(migration(INIT), migration(POSTS), migration(RENAME), REACTED), consent="")
    assert made["refusals"] == []
    assert [choice["name"] for choice in made["database"]["keep"]] == [REACTIONS, RENAME]
    assert made["database"]["down"] == made["database"]["price"] == []
    assert made["online"] is True
    assert made["hosts"]["app1"]["stop_writers"] is False


@pytest.mark.parametrize(
    ("policy", "rows", "down"),
    [
        ("auto", [RENAMED, REACTED], [REACTIONS, RENAME]),
        ("keep", [RENAMED, REACTED], []),
        ("down", [migration(RENAME), REACTED], [REACTIONS, RENAME]),
        ("auto", [dict(RENAMED, directive="keep"), REACTED], []),
        ("auto", [dict(RENAMED, directive="keep"), dict(REACTED, directive="down")], [REACTIONS]),
        ("auto", [migration(RENAME, directive="down"), dict(REACTED, directive="keep")], [REACTIONS, RENAME]),
        ("auto", [migration(RENAME), dict(REACTED, state="failed")], [REACTIONS]),
    ],
)
def test_policy_and_directives_decide_what_goes_down(policy, rows, down):
    made = plan(database=history(migration(INIT), migration(POSTS), *rows), policy=policy)
    assert [choice["name"] for choice in made["database"]["down"]] == down
    assert made["refusals"] == []


@pytest.mark.parametrize(
    ("parts", "online", "moves"),
    [
        (FULL, True, ["frontend", "application"]),
        (FULL, False, ["frontend", "application"]),
        (("application",), True, ["application"]),
        (("frontend",), True, ["frontend"]),
        (("database",), True, []),
        # The API is stopped for the database, and started again.
        (("database",), False, ["application"]),
    ],
)
def test_the_parts_that_move_are_those_whose_services_are_started(parts, online, moves):
    made = plan(
        {"app1": stack(runs="v1.1.0") if parts == ("database",) else stack()},
        policy="keep" if online else "down",
        parts=parts,
        database=None if parts == ("frontend",) else history(),
    )
    assert made["refusals"] == []
    assert made["online"] is online
    assert made["moves"] == moves


def test_the_coordinator_is_the_first_by_name_of_the_hosts_that_could_be_read():
    assert plan({"app1": {"unreachable": True, "msg": "timed out"}, "app2": stack()})["coordinator"] == "app2"
    assert plan({"app1": {"unreachable": True, "msg": "timed out"}})["coordinator"] == ""


def test_the_coordinator_does_not_depend_on_the_order_in_which_hosts_are_listed():
    # Two runs that are started at once must ask for the same lock.
    assert plan({"app2": stack(), "app1": stack()})["coordinator"] == "app1"


def test_a_host_carries_only_the_services_of_its_components():
    made = plan({"app1": stack()}, components={"app1": ["frontend"]})
    assert list(made["hosts"]["app1"]["services"]) == ["web"]
    assert made["hosts"]["app1"]["stop_writers"] is False


def test_a_checkout_that_lacks_the_tag_fetches_it_when_the_remote_has_it():
    reading = with_git(stack(), target_local=False, target_on_remote=True)
    entry = plan({"app1": reading})["hosts"]["app1"]
    assert (entry["fetch"], entry["checkout"]) == (True, True)


@pytest.mark.parametrize("parts", [("application",), ("database",), ("frontend",)])
def test_a_rollback_of_one_part_leaves_the_checkout_where_it_is(parts):
    made = plan(parts=parts, policy="keep", database=None if parts == ("frontend",) else history())
    assert made["hosts"]["app1"]["checkout"] is False
    assert [s["part"] for s in made["hosts"]["app1"]["services"].values() if s["change"]] == [
        part for part in parts if part != "database"
    ]


# The rollout


def pair(**changes) -> dict:
    return plan({"app1": stack(), "app2": stack()}, history(migration(INIT), migration(POSTS)), **changes)


def test_a_rollout_is_as_it_was_set():
    assert pair(on_failure="hold", max_failed=3, min_serving="1", batches=("1", "100%"), hooks=True)["rollout"] == {
        "batches": ["1", "100%"],
        "on_failure": "hold",
        "max_failed": 3,
        "min_serving": {"application": 1, "frontend": 1},
        "hooks": True,
    }


def test_a_rollout_with_nothing_set_has_a_canary_half_of_the_hosts_and_the_rest():
    assert pair()["rollout"] == {
        "batches": ["canary", "50%", "100%"],
        "on_failure": "auto",
        "max_failed": 1,
        "min_serving": {"application": 1, "frontend": 1},
        "hooks": False,
    }


def test_once_the_writers_are_stopped_one_canary_goes_first_and_all_the_others_at_once():
    assert plan(batches=("1",))["rollout"]["batches"] == ["canary", "100%"]


def test_how_many_have_to_serve_is_counted_for_each_part_that_somebody_carries():
    kinds = {"api1": ["application"], "api2": ["application"], "api3": ["application"]}
    made = plan({host: stack(services=("api",)) for host in kinds}, components=kinds)
    assert made["rollout"]["min_serving"] == {"application": 2}


def test_a_host_that_is_out_of_rotation_changes_though_the_target_runs_there():
    stacks = {"app1": at_target(), "app2": at_target()}
    made = plan(stacks, history(migration(INIT), migration(POSTS)), drained={"app2": True})
    assert [made["hosts"][host]["drained"] for host in stacks] == [False, True]
    assert [made["hosts"][host]["change"] for host in stacks] == [False, True]
    assert made["changed"] is True


def test_a_host_that_carries_nothing_of_what_moves_is_not_given_back():
    stacks = {"app1": stack(), "db1": stack(services=())}
    made = plan(stacks, components={"app1": ["application"], "db1": []}, drained={"db1": True})
    assert made["hosts"]["db1"]["drained"] is False


def test_a_host_held_with_a_kept_build_knows_what_it_served():
    web = plan({"app1": kept_build(stack(), "v1.2.0", "build-v1.1.0")})["hosts"]["app1"]["services"]["web"]
    assert (web["before_build_id"], web["build_id"]) == ("build-v1.2.0", "build-v1.1.0")


# Already there


def at_target() -> dict:
    return stack(runs="v1.1.0")


def test_a_fleet_on_the_target_has_nothing_to_change_and_needs_no_consent():
    made = plan({"app1": at_target()}, history(migration(INIT), migration(POSTS)), consent="")
    assert made["refusals"] == []
    assert made["changed"] is False
    assert made["hosts"]["app1"]["change"] is False
    assert made["online"] is True


@pytest.mark.parametrize(
    "break_it",
    [
        lambda reading: reading["services"]["api"].update(running=None),
        lambda reading: reading["services"]["api"].update(running=container("api", "v1.1.0", state="exited")),
        lambda reading: reading["services"]["api"].update(running=container("api", "v1.2.0")),
        lambda reading: reading["services"]["api"].update(configured_image=image("api", "v1.2.0")),
        lambda reading: reading["git"].update(head=commit("v1.2.0")),
    ],
    ids=["no container", "stopped", "other image", "written otherwise", "checkout elsewhere"],
)
def test_a_host_that_is_not_wholly_on_the_target_changes(break_it):
    reading = at_target()
    break_it(reading)
    made = plan({"app1": reading}, history(migration(INIT), migration(POSTS)))
    assert made["hosts"]["app1"]["change"] is made["changed"] is True


def test_an_image_pinned_by_digest_is_the_target_too():
    reading = at_target()
    reading["services"]["api"]["configured_image"] = f"{image('api', 'v1.1.0')}@{digest('api', 'v1.1.0')}"
    assert plan({"app1": reading}, history(migration(INIT), migration(POSTS)))["changed"] is False


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"target_digest": "sha256:a", "running": {"repo_digests": ["r/api@sha256:a"]}}, True),
        ({"target_digest": "sha256:a", "running": {"repo_digests": ["r/api@sha256:b"], "image_id": "sha256:a"}}, True),
        ({"target_digest": "sha256:a", "running": {"repo_digests": ["r/api@sha256:b"], "image_id": "sha256:c"}}, False),
        # The tag says nothing where the digest is known: a tag can be moved.
        ({"target_digest": "sha256:a", "target_image": "r/api:v1", "running": {"image": "r/api:v1"}}, False),
        ({"target_digest": "", "target_image": "r/api:v1", "running": {"image": "r/api:v1"}}, True),
        ({"target_digest": "", "target_image": "r/api:v1", "running": {"image": "r/api:v2"}}, False),
        ({"target_digest": "", "target_image": "", "running": {"image": ""}}, False),
        ({"target_digest": "sha256:a", "running": None}, False),
    ],
)
def test_an_image_is_the_target_by_digest_and_by_name_only_where_no_digest_is_known(service, expected):
    assert _plan.is_target(service) is expected


def test_a_kept_build_is_the_target_by_its_build_id():
    known = history(migration(INIT), migration(POSTS))
    reading = kept_build(at_target(), "v1.1.0", "build-v1.1.0")
    assert plan({"app1": reading}, known)["changed"] is False
    reading = kept_build(at_target(), "v1.0.0", "build-v1.0.0")
    web = plan({"app1": reading}, known)["hosts"]["app1"]["services"]["web"]
    assert (web["change"], web["before"], web["image"], web["local"]) == (True, "v1.0.0", "", True)
    for reading in (
        kept_build(at_target(), "v1.1.0", ""),
        # The link has moved, and the container was not started anew: a run was killed in between.
        kept_build(at_target(), "v1.1.0", "build-v1.1.0", served=False),
    ):
        assert plan({"app1": reading}, known)["hosts"]["app1"]["services"]["web"]["change"] is True


@pytest.mark.parametrize(
    ("change", "before"),
    [
        ({}, "v1.2.0"),
        ({"services": {"api": None}}, "v1.2.0"),
        ({"services": {}}, "v1.2.0"),
        ({"services": {}, "head_tags": []}, "v1.1.0"),
        ({"services": {}, "head_tags": [], "current": ""}, "unknown"),
    ],
)
def test_the_release_before_is_what_runs_else_the_checkout_else_the_ledger(change, before):
    reading = stack()
    if "api" in change.get("services", {}):
        reading["services"]["api"]["running"] = None
    else:
        reading["services"] = change.get("services", reading["services"])
    reading["git"]["head_tags"] = change.get("head_tags", ["v1.2.0"])
    reading["ledger"]["current"] = change.get("current", "v1.1.0")
    assert plan({"app1": reading})["hosts"]["app1"]["before"] == before


# Refusals of hosts


def test_a_host_that_cannot_be_reached_is_a_refusal_with_its_way_out():
    made = plan({"app1": stack(), "app2": {"unreachable": True, "msg": "\n  Connection timed out\nmore"}})
    assert refused(made, "unreachable") == {
        "host": "app2",
        "code": "unreachable",
        "message": "the host cannot be reached: Connection timed out",
        "next": "ssh to app2; if it is dead, take it out of rotation and add -e rollback_exclude=app2",
    }
    assert list(made["hosts"]) == ["app1"]


@pytest.mark.parametrize(
    "reading",
    [
        {"failed": True, "msg": "Missing sudo password"},
        {"failed": True, "msg": "MODULE FAILURE", "module_stderr": "sudo: a password is required"},
        {"failed": True, "msg": "failed", "module_stdout": "su: Authentication failure, become method"},
    ],
)
def test_missing_root_rights_are_told_from_a_failed_reading(reading):
    entry = refused(plan({"app1": reading}), "become_denied")
    assert "--ask-become-pass" in entry["next"]


def test_a_host_that_was_reached_but_not_read_is_a_refusal():
    entry = refused(plan({"app1": {"failed": True, "msg": "No python interpreters found"}}), "reading_failed")
    assert entry["message"] == "the host was reached but not read: No python interpreters found"
    assert entry["next"] == "ansible -m ansible.builtin.ping app1"


def test_a_failure_without_a_message_is_still_told():
    assert "no message" in refused(plan({"app1": {"failed": True}}), "reading_failed")["message"]


def test_every_reason_of_every_host_is_told_at_once():
    first, second = stack(), stack()
    first["refusals"] = [
        {"code": "disk_full", "message": "1 MB left", "next": "docker system df"},
        {"code": "lock_held", "message": "alex holds it", "next": "wait"},
    ]
    second["refusals"] = [{"code": "registry_denied", "message": "401", "next": "docker login"}]
    made = plan({"app1": first, "app2": second}, consent="")
    assert [(entry["host"], entry["code"]) for entry in made["refusals"]] == [
        ("app1", "disk_full"),
        ("app1", "lock_held"),
        ("app2", "registry_denied"),
        ("database", "data_loss"),
    ]


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


def test_one_reason_is_told_once():
    reading = stack()
    reading["refusals"] = [{"code": "disk_full", "message": "1 MB left", "next": "docker system df"}] * 2
    assert codes(plan({"app1": reading})) == ["disk_full"]


# Frozen


def frozen() -> dict:
    reading = stack()
    reading["ledger"]["frozen"] = {"release": "v1.2.0", "at": "2026-01-04T12:00:00Z", "who": "alex", "why": ""}
    return reading


def test_previous_is_refused_while_deploys_are_frozen():
    entry = refused(plan({"app1": stack(), "app2": frozen()}, release="previous"), "frozen")
    assert entry["host"] == "fleet"
    assert "rolled back to v1.2.0 on 2026-01-04T12:00:00Z" in entry["message"]
    assert "-e release=<release>" in entry["next"]


def test_a_release_that_is_named_is_not_refused_while_deploys_are_frozen():
    assert "frozen" not in codes(plan({"app1": frozen()}))


def test_a_run_that_is_taken_up_again_is_not_stopped_by_the_freeze_that_it_brought():
    reading = frozen()
    reading["lock"] = {"held": True, "run_id": "run1", "reason": "rollback to v1.1.0: 503"}
    assert "frozen" not in codes(plan({"app1": reading}, release="previous"))


# A plan that was approved


def test_a_plan_that_is_as_it_was_approved_goes_through():
    assert plan(expected=plan()["digest"])["refusals"] == []


def test_a_plan_that_is_not_as_it_was_approved_is_refused_with_both_fingerprints():
    entry = refused(plan(expected="0123456789abcdef"), "plan_changed")
    assert entry["host"] == "fleet"
    assert "0123456789abcdef" in entry["message"] and plan()["digest"] in entry["message"]
    assert entry["next"] == "look at it again: ansible-playbook rollback_plan.yml -e release=v1.1.0"


# Refusals of the fleet


def test_a_limited_run_is_refused_and_names_the_hosts_that_it_leaves_out():
    entry = refused(plan(missing=("app2", "app3")), "limited")
    assert "app2, app3" in entry["message"]
    assert entry["next"].endswith("-e rollback_exclude=app2,app3")


def test_a_host_that_failed_before_it_was_read_is_a_refusal():
    entry = refused(plan(unread=("app2",)), "variables")
    assert (entry["host"], entry["next"]) == ("app2", "mend them, and look: ansible-inventory --host app2")


def test_a_host_that_is_excluded_where_plays_do_not_see_it_is_a_refusal():
    made = plan({"app1": stack(), "app2": stack()}, excluding={"app1": [], "app2": ["app2", "app3"]})
    entry = refused(made, "exclude_unseen")
    assert (entry["host"], entry["next"].rpartition(": ")[2]) == ("app2", "-e rollback_exclude=app2")


def test_an_excluded_host_that_may_still_serve_is_a_refusal():
    entry = refused(plan(excluded={"app2": "the load balancer says UP"}), "exclude_serving")
    assert entry["host"] == "app2"
    assert entry["message"] == "it is excluded, but the load balancer says UP"
    assert "-e rollback_drained=app2" in entry["next"]


def test_an_excluded_host_out_of_rotation_is_a_warning():
    made = plan(excluded={"app2": ""})
    assert made["refusals"] == []
    assert made["warnings"] == ["app2 is excluded: it stays on the release it has, out of rotation"]


def test_without_a_release_the_refusal_lists_the_candidates():
    made = plan({"app1": stack(target="")}, release="", consent="")
    assert codes(made) == ["release_missing"]
    assert [row["release"] for row in made["candidates"]] == ["v1.2.0", "v1.1.0", "v1.0.0", "v1.3.0"]
    assert made["changed"] is False
    assert made["database"]["down"] == []


def test_with_a_release_no_candidates_are_listed():
    assert plan()["candidates"] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1.1.0", True),
        ("2026-01-01", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("v1..0", False),
        ("v1.lock", False),
        ("v1.", False),
        ("-v1", False),
        (".v1", False),
        ("v1 2", False),
        ("v1/2", False),
        ("v1\n", False),
        ("v1;reboot", False),
    ],
)
def test_a_release_name_is_a_tag_of_git_and_of_a_registry(name, expected):
    assert _plan.is_release_name(name) is expected


def test_a_name_that_cannot_be_a_tag_is_a_refusal():
    made = plan(release="v1.1.0; reboot")
    assert refused(made, "tag_malformed")["message"].startswith("'v1.1.0; reboot' cannot be a release")
    assert made["release"] == ""


def resumed() -> dict:
    """Return a host whose lock the run holds already."""
    reading = stack()
    reading["lock"].update(held=True, run_id="run1", reason="rollback to v1.1.0: 503s")
    return reading


def test_a_run_that_is_taken_up_again_keeps_its_target():
    entry = refused(plan({"app1": resumed()}, release="v1.0.0", consent="v1.0.0"), "pinned")
    assert entry["next"] == "-e release=v1.1.0"
    for release in ("v1.1.0", "previous"):
        made = plan({"app1": resumed()}, release=release)
        assert "pinned" not in codes(made)
        assert made["release"] == "v1.1.0"
    other = resumed()
    other["lock"]["run_id"] = "another"
    assert plan({"app1": other}, release="v1.0.0", consent="v1.0.0")["release"] == "v1.0.0"


def test_a_host_that_calls_another_release_previous_by_now_is_not_taken_there():
    moved_on = stack(target="v1.0.0")
    entry = refused(plan({"app1": resumed(), "app2": moved_on}, release="previous"), "pinned")
    assert (entry["host"], entry["next"]) == ("app2", "-e release=v1.1.0")
    assert "v1.0.0" in entry["message"]


def test_writers_that_would_not_be_started_again_are_a_refusal_where_the_database_goes_down():
    entry = refused(plan(writers=("api", "worker")), "writers_unsupported")
    assert "worker" in entry["message"] and "'api'" not in entry["message"]
    assert plan(writers=("api",))["refusals"] == []
    assert plan(writers=("api", "worker"), policy="keep", consent="")["refusals"] == []


# previous


def test_previous_is_what_every_host_resolved():
    made = plan({"app1": stack(), "app2": stack()}, release="previous")
    assert made["release"] == "v1.1.0"
    assert made["requested"] == "previous"


def test_hosts_that_disagree_on_previous_are_a_refusal_with_a_table():
    made = plan({"app1": stack(), "app2": stack(target="v1.0.0")}, release="previous")
    entry = refused(made, "previous_disagrees")
    assert "(app1: v1.1.0, app2: v1.0.0)" in entry["message"]
    assert made["release"] == ""
    assert {row["release"] for row in made["candidates"]} == {"v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"}


def test_a_host_without_a_previous_refuses_by_itself():
    second = stack(target="")
    second["refusals"] = [{"code": "no_previous", "message": "the ledger has no good release", "next": "name it"}]
    made = plan({"app1": stack(), "app2": second}, release="previous")
    assert refused(made, "no_previous")["host"] == "app2"


def test_nobody_has_a_previous():
    reading = stack(target="")
    reading["refusals"] = [{"code": "no_previous", "message": "the ledger has no good release", "next": "name it"}]
    made = plan({"app1": reading}, release="previous")
    assert codes(made) == ["no_previous"]
    assert made["candidates"]


# The target on all hosts


def test_a_tag_that_only_some_hosts_have_is_a_refusal():
    made = plan({"app1": stack(), "app2": with_git(stack(), target_commit="", target_local=False)})
    entry = refused(made, "tag_unknown")
    assert (entry["host"], entry["message"]) == ("app2", "the checkout has no tag v1.1.0, other hosts have it")


def test_a_tag_that_only_the_remote_has_is_no_refusal():
    reading = with_git(stack(), target_commit="", target_local=False, target_on_remote=True)
    assert codes(plan({"app1": reading})) == []


def test_a_tag_that_no_host_has_is_a_refusal():
    made = plan({"app1": with_git(stack(), target_commit="", target_local=False)})
    assert refused(made, "tag_unknown")["message"] == "the checkout has no tag v1.1.0"


@pytest.mark.parametrize("code", ["git_safe_directory", "tag_unknown", "project_missing"])
def test_a_host_that_says_itself_why_it_has_no_tag_is_not_refused_twice(code):
    reading = with_git(stack(), target_commit="", target_local=False)
    reading["refusals"] = [{"code": code, "message": "for a reason", "next": "do this"}]
    assert codes(plan({"app1": reading})) == [code]


def test_a_tag_that_is_another_commit_on_one_host_is_a_refusal_of_that_host():
    made = plan({"app1": stack(), "app2": stack(), "app3": with_git(stack(), target_commit="f" * 40)})
    entry = refused(made, "tag_moved")
    assert entry["host"] == "app3"
    assert "f" * 12 in entry["message"]


@pytest.mark.parametrize(("parts", "database"), [(("frontend",), None), (("database",), history())])
def test_a_rollback_of_one_part_needs_no_tag(parts, database):
    reading = with_git(stack(), target_commit="", target_local=False)
    made = plan({"app1": reading}, database, parts=parts, policy="keep")
    assert codes(made) == []
    assert made["database"]["needed"] is (database is not None)


def test_a_release_that_is_not_the_same_image_everywhere_is_a_refusal():
    second = stack()
    second["services"]["api"]["target_digest"] = "sha256:other"
    entry = refused(plan({"app1": stack(), "app2": second}), "digest_disagrees")
    assert entry["host"] == "fleet"
    assert "v1.1.0 of api is not the same image on every host" in entry["message"]


def test_images_built_on_each_host_may_differ():
    second = stack()
    second["services"]["api"]["target_digest"] = "sha256:other"
    assert plan({"app1": stack(), "app2": second}, image_source="build")["refusals"] == []


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
    assert _plan.loss_text(entry) == text


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


DOWN_DATABASE = {"error": "connection refused\nIs the server running?", "code": "database_unreachable", "next": ""}


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


# Warnings


def test_an_environment_that_changed_since_the_target_is_a_warning_without_values():
    reading = stack()
    reading["env"]["differs"] = ["JWT_KEY", "LOG_LEVEL"]
    assert plan({"app1": reading})["warnings"] == [
        "app1: .env is not what it was with the target; it differs in JWT_KEY, LOG_LEVEL"
    ]


@pytest.mark.parametrize(("apart", "warned"), [(300.0, []), (301.0, ["the hosts' clocks differ by 301 s"])])
def test_clocks_that_are_minutes_apart_are_a_warning(apart, warned):
    second = stack()
    second["clock"] += apart
    assert plan({"app1": stack(), "app2": second})["warnings"] == warned


# The fingerprint


def test_the_same_readings_give_the_same_fingerprint():
    assert plan()["digest"] == plan()["digest"]
    assert len(plan()["digest"]) == 16


def test_what_the_fetching_of_the_target_brings_about_does_not_change_the_fingerprint():
    fetched = with_git(stack(), target_local=True, target_on_remote=True)
    fetched["services"]["api"]["target_local"] = True
    fetched["services"]["api"]["health"] = {"status": 200, "body": None, "error": ""}
    fetched["clock"] += 60
    before = with_git(stack(), target_local=False, target_on_remote=True)
    assert plan({"app1": before})["digest"] == plan({"app1": fetched})["digest"]


def test_the_building_of_the_target_does_not_change_the_fingerprint():
    before, built = stack(), stack()
    before["services"]["api"]["target_digest"] = ""
    assert (
        plan({"app1": before}, image_source="build")["digest"] == plan({"app1": built}, image_source="build")["digest"]
    )


def test_rows_that_the_running_release_goes_on_writing_do_not_change_the_fingerprint():
    later = history(migration(INIT), migration(POSTS), RENAMED, dict(REACTED, loss=[loss(99)]))
    assert plan()["digest"] == plan(database=later)["digest"]


def test_rows_written_without_consent_are_refused_by_the_new_plan():
    later = history(migration(INIT), migration(POSTS), RENAMED, dict(REACTED, loss=[loss(1)]))
    assert codes(plan(database=later, consent="")) == ["data_loss"]


@pytest.mark.parametrize(
    "other",
    [
        lambda: plan({"app1": stack(), "app2": stack()}),
        lambda: plan({"app1": stack(target="v1.0.0")}, history(target="v1.0.0"), release="v1.0.0"),
        lambda: plan(parts=("application", "database")),
        lambda: plan(policy="keep"),
        lambda: plan({"app1": with_git(stack(), target_commit="f" * 40)}),
        lambda: plan({"app1": at_target()}),
        lambda: plan({"app1": moved_image()}),
    ],
    ids=["another host", "release", "parts", "migrations", "commit", "already switched", "digest"],
)
def test_whatever_else_the_plan_would_do_changes_the_fingerprint(other):
    assert other()["digest"] != plan()["digest"]


def moved_image() -> dict:
    reading = stack()
    reading["services"]["web"]["target_digest"] = "sha256:other"
    return reading


# Candidates


def row(made: list[dict], release: str) -> dict:
    (found,) = (entry for entry in made if entry["release"] == release)
    return found


def test_a_candidate_says_where_it_runs_how_it_was_and_what_going_there_loses():
    made = _plan.candidates({"app1": stack(), "app2": stack()}, history())
    entry = row(made, "v1.1.0")
    assert entry["good"] == entry["hosts"] == ["app1", "app2"]
    assert entry["undo"] == [REACTIONS, RENAME]
    assert entry["loss"] == ["3 rows of public.reactions (drop table)"]
    assert row(made, "v1.2.0")["bad"] == row(made, "v1.2.0")["current"] == ["app1", "app2"]
    assert row(made, "v1.2.0")["undo"] == []


def test_a_candidate_takes_the_newest_time_of_all_hosts():
    second = stack()
    second["ledger"]["releases"] = [recorded("v1.1.0", at="2026-01-09T00:00:00Z")]
    made = _plan.candidates({"app1": stack(), "app2": second}, None)
    assert made[0]["release"] == "v1.1.0"
    assert made[0]["at"] == "2026-01-09T00:00:00Z"


def test_a_tag_that_was_never_recorded_is_a_candidate_of_which_little_is_known():
    entry = row(_plan.candidates({"app1": stack()}, history()), "v1.3.0")
    assert (entry["at"], entry["hosts"], entry["undo"], entry["loss"]) == ("", [], None, [])


@pytest.mark.parametrize("database", [None, {"error": "down"}])
def test_without_a_database_nobody_knows_what_a_candidate_undoes(database):
    assert row(_plan.candidates({"app1": stack()}, database), "v1.1.0")["undo"] is None


def test_a_candidate_undoes_what_failed_and_not_what_was_rolled_back():
    rows = [migration(INIT), migration(POSTS), migration(RENAME, state="rolled_back"), dict(REACTED, state="failed")]
    assert row(_plan.candidates({"app1": stack()}, history(*rows)), "v1.1.0")["undo"] == [REACTIONS]


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda: plan(release=""), "release_missing"),
        (lambda: plan(release="a b"), "tag_malformed"),
        (lambda: plan(missing=("app2",)), "limited"),
        (lambda: plan({"app1": resumed()}, release="v1.0.0"), "pinned"),
        (lambda: plan({"app1": stack(), "app2": stack(target="v1.0.0")}, release="previous"), "previous_disagrees"),
        (lambda: plan({"app1": stack(), "app2": moved_image()}), "digest_disagrees"),
        (lambda: plan(parts=("application",)), "boundary"),
        (lambda: plan(parts=("database",)), "boundary"),
        (lambda: plan(database=DOWN_DATABASE, runner=""), "database_unreachable"),
    ],
)
def test_a_reason_that_is_not_one_hosts_is_the_fleets_and_has_a_next_command(made, code):
    entry = refused(made(), code)
    assert entry["host"] == "fleet"
    assert entry["next"]


def test_without_a_readable_host_there_are_no_candidates():
    assert _plan.candidates({}, None) == []


# What a target contains


def test_a_checkout_tells_what_the_target_contains_and_a_ledger_where_none_has_it():
    silent = with_git(stack(), target_migrations=None)
    assert _plan.target_migrations({"app1": silent, "app2": stack()}, "v1.1.0") == MIGRATIONS["v1.1.0"]
    assert _plan.target_migrations({"app1": silent}, "v1.0.0") == [INIT]
    assert _plan.target_migrations({"app1": silent}, "v9.0.0") is None


def test_a_target_without_migrations_is_known_to_have_none():
    assert _plan.target_migrations({"app1": with_git(stack(), target_migrations=[])}, "v1.1.0") == []


# A run that is taken up again


def taken_up(**changes) -> dict:
    """Return the plan of a second try, the first one having been killed after the migrations went down."""
    first = plan({"app1": stack(), "app2": stack()})
    readings = {"app1": stack(runs="v1.1.0"), "app2": stack()}
    for service in readings["app1"]["services"].values():
        service["running"]["image_id"] = "sha256:" + "2" * 64
    readings["app2"]["services"]["api"]["running"] = None
    readings["app1"]["run"] = {"plan": deepcopy(first)}
    return plan(readings, history(migration(INIT), migration(POSTS)), **changes)


def test_a_run_that_is_taken_up_again_knows_what_its_first_try_took_down_and_lost():
    made = taken_up()
    assert (made["online"], made["database"]["down"]) == (True, [])
    assert made["database"]["undone"] == [REACTED["name"], RENAMED["name"]]
    assert [entry["count"] for entry in made["database"]["lost"]] == [3]
    assert made["database"]["before"] == [INIT, POSTS, RENAMED["name"], REACTED["name"]]
    assert made["rollout"]["batches"] == ["canary", "100%"]


def test_a_run_that_is_taken_up_again_knows_what_ran_on_each_host_before_the_first_change():
    hosts = taken_up()["hosts"]
    assert {host: entry["before"] for host, entry in hosts.items()} == {"app1": "v1.2.0", "app2": "v1.2.0"}
    assert {entry["services"]["api"]["before_state"] for entry in hosts.values()} == {"running"}
    assert {entry["services"]["api"]["before_image_id"] for entry in hosts.values()} == {"sha256:" + "1" * 64}
    assert all(entry["touched"] and entry["stop_writers"] for entry in hosts.values())


def test_a_host_that_the_killed_run_itself_took_out_of_rotation_is_not_one_that_served_nobody_before():
    hosts = taken_up(drained={"app1": True})["hosts"]
    assert (hosts["app1"]["drained"], hosts["app1"]["before_drained"]) == (True, False)
    assert plan({"app1": stack()}, drained={"app1": True})["hosts"]["app1"]["before_drained"] is True


def test_a_run_that_was_killed_when_the_target_ran_everywhere_goes_on_until_it_is_recorded_and_unlocked():
    readings = {"app1": stack(runs="v1.1.0")}
    applied = history(migration(INIT), migration(POSTS))
    assert plan(readings, applied)["changed"] is False
    readings["app1"]["run"] = {"plan": plan({"app1": stack()})}
    assert plan(readings, applied)["changed"] is True


def test_a_run_that_was_not_begun_before_has_nothing_to_take_up():
    made = plan()
    assert made["database"]["undone"] == [choice["name"] for choice in made["database"]["down"]]
    assert not made["hosts"]["app1"].get("touched")


def test_every_host_keeps_what_a_run_needs_that_takes_this_one_up():
    first = plan({"app1": stack(), "app2": stack()})
    kept = _plan.plan_to_keep(first, "app2")
    assert list(kept["hosts"]) == ["app2"] and kept["database"] == first["database"]
    # The coordinator is gone for good.
    reading = {**stack(runs="v1.1.0"), "run": {"plan": json.loads(json.dumps(kept))}}
    assert plan({"app2": reading}, history(migration(INIT), migration(POSTS)))["resumed"] is False
    made = plan({"app2": reading}, history(migration(INIT), migration(POSTS)), resumes=True)
    assert made["resumed"] is True
    assert made["database"]["undone"] == [REACTED["name"], RENAMED["name"]]
    assert made["hosts"]["app2"]["before"] == "v1.2.0"


def test_hosts_that_kept_the_plans_of_different_tries_are_put_together():
    first = plan({"app1": stack(), "app2": stack()})
    second = deepcopy(first)
    second["database"]["dumps"] = ["/backups/run1-later", *first["database"]["dumps"]]
    readings = {
        host: {**stack(), "run": {"plan": _plan.plan_to_keep(kept, host)}}
        for host, kept in (("app1", first), ("app2", second))
    }
    made = plan(readings, history(migration(INIT), migration(POSTS)))
    assert sorted(made["database"]["dumps"]) == sorted(second["database"]["dumps"])
    assert made["database"]["lost"] == first["database"]["lost"]
    assert len(made["hosts"]) == 2


def test_rows_that_were_lost_are_known_also_when_their_migrations_are_applied_again():
    # Killed in Restore, after migrate deploy and before the rows were back: the tables are empty.
    first = plan({"app1": stack()})
    reading = {**stack(), "run": {"plan": _plan.plan_to_keep(first, "app1")}}
    empty = migration(REACTED["name"])
    made = plan({"app1": reading}, history(migration(INIT), migration(POSTS), RENAMED, empty))
    assert [choice["name"] for choice in made["database"]["down"]] == [REACTED["name"], RENAMED["name"]]
    assert made["database"]["lost"] == first["database"]["lost"] != []
    assert made["database"]["dumps"] == first["database"]["dumps"]


@pytest.mark.parametrize(
    ("runs", "drained", "traffic"),
    [("v1.1.0", {}, True), ("v1.1.0", {"app1": True}, False), ("v1.2.0", {}, False), (None, {}, False)],
)
def test_users_may_have_reached_the_target_where_it_is_there_and_in_rotation(runs, drained, traffic):
    first = plan({"app1": stack()})
    reading = stack(runs=runs or "v1.2.0")
    for service in reading["services"].values():
        if runs == "v1.1.0":
            service["running"]["image_id"] = "sha256:" + "2" * 64
        elif runs is None:
            service["running"] = None
    reading["run"] = {"plan": _plan.plan_to_keep(first, "app1")}
    made = plan({"app1": reading}, history(migration(INIT), migration(POSTS)), drained=drained)
    assert bool(made["hosts"]["app1"].get("traffic")) is traffic
    assert bool(made["hosts"]["app1"].get("touched")) is (runs != "v1.2.0")


def test_what_an_earlier_try_switched_goes_through_its_gate_once_more():
    hosts = taken_up()["hosts"]
    assert all(entry["change"] for entry in hosts.values())
    assert "application" in taken_up(parts=("database",))["moves"]


def test_a_host_that_had_no_container_and_has_none_was_not_touched():
    first = plan({"app1": stack(), "app2": gone()})
    readings = {"app1": stack(), "app2": gone()}
    readings["app1"]["run"] = {"plan": deepcopy(first)}
    assert not plan(readings)["hosts"]["app2"].get("touched")


def gone() -> dict:
    reading = stack()
    for service in reading["services"].values():
        service["running"] = None
    return reading


@pytest.mark.parametrize(
    ("held", "expected"), [("run1", []), ("another", ["resume_unknown"]), ("", ["resume_unknown"])]
)
def test_a_run_that_no_host_is_locked_by_is_not_taken_up_again(held, expected):
    reading = stack()
    reading["lock"] = {"held": False, "run_id": held, "reason": "rollback to v1.1.0"}
    assert codes(plan({"app1": reading}, resumes=True)) == expected
    assert codes(plan({"app1": reading})) == []


def test_more_batches_than_can_be_made_are_refused():
    stacks = {f"app{number}": stack() for number in range(102)}
    assert codes(plan(stacks, batches=("1",), database=None)) == ["batches_too_many"]
    assert codes(plan(stacks, batches=("canary", "10%"), database=None)) == []


def test_a_plan_of_another_running_release_has_another_digest():
    other = stack()
    other["services"]["api"]["running"]["image"] = "registry.example.com/connectin/api:v1.2.1"
    assert plan({"app1": other})["digest"] != plan()["digest"]


def test_what_was_set_for_this_run_is_kept_for_the_commands_that_follow():
    unset = {
        "rollback_on_failure": "auto",
        "rollback_failed_migrations": "fail",
        "rollback_drained": "",
        "rollback_hosts": "",
    }
    made = plan(again={**unset, "rollback_transaction": "each", "rollback_backup": False})
    assert made["again"] == {"rollback_transaction": "each", "rollback_backup": "False"}
    assert plan(again={**unset, "rollback_transaction": "all", "rollback_backup": True})["again"] == {}
