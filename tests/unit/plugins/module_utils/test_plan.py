"""One plan for the fleet: what it changes, what it warns of, what it is known by."""

from __future__ import annotations

from copy import deepcopy

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _plan, _stack
from plans import FULL, codes, moved_image, plan, refused, with_git
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
            "before_release": "v1.2.0",
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
    reading = stack()
    reading["env"]["differs"] = ["LOG_LEVEL"]
    reading["services"]["api"].update(
        running=container("api", "v1.2.0", restarts=4), target_local=True, health={"status": 503, "body": {"a": 1}}
    )
    reading["services"]["web"].update(running=None, health=None)
    entry = plan({"app1": reading})["hosts"]["app1"]
    assert entry["components"] == ["application", "frontend"]
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
    assert _stack.is_target(service) is expected


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


# A plan that was approved


def test_a_plan_that_is_as_it_was_approved_goes_through():
    assert plan(expected=plan()["digest"])["refusals"] == []


def test_a_plan_that_is_not_as_it_was_approved_is_refused_with_both_fingerprints():
    entry = refused(plan(expected="0123456789abcdef"), "plan_changed")
    assert entry["host"] == "fleet"
    assert "0123456789abcdef" in entry["message"] and plan()["digest"] in entry["message"]
    assert entry["next"] == "look at it again: ansible-playbook rollback_plan.yml -e release=v1.1.0"


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


def test_without_a_readable_host_there_are_no_candidates():
    assert _plan.candidates({}, None) == []


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
        "rollback_database_runner": "",
        "rollback_image_source": "registry",
        "rollback_switch": "stop_first",
        "rollback_max_failed": 1,
        "rollback_min_serving": "50%",
        "rollback_batches": ["canary", "50%", "100%"],
        "rollback_writer_services": "",
    }
    made = plan(
        again={
            **unset,
            "rollback_transaction": "each",
            "rollback_backup": False,
            "rollback_frontend_source": "artifact",
            "rollback_max_failed": 2,
            "rollback_writer_services": ["api", "worker"],
        }
    )
    assert made["again"] == {
        "rollback_transaction": "each",
        "rollback_backup": "False",
        "rollback_frontend_source": "artifact",
        "rollback_max_failed": "2",
        "rollback_writer_services": ["api", "worker"],
    }
    assert plan(again={**unset, "rollback_transaction": "all", "rollback_backup": True})["again"] == {}
