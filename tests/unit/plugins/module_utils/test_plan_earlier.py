"""A run that is taken up again: what its earlier tries kept is not forgotten."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _plan_earlier
from plans import plan
from rollback_readings import INIT, POSTS, REACTED, RENAMED, history, migration, stack


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


@pytest.mark.parametrize(
    ("first", "second", "checkout", "expected"),
    [
        pytest.param(None, None, [RENAMED["name"]], [RENAMED["name"]], id="nobody runs what needs it"),
        pytest.param(None, None, [INIT, POSTS], [], id="the checkout does not need it"),
        pytest.param("running", None, [RENAMED["name"]], [], id="one ran on this schema before"),
    ],
)
def test_what_another_run_took_down_and_the_release_from_before_needs_is_known(first, second, checkout, expected):
    readings = {"app1": stack(), "app2": stack()}
    for reading, api in zip(readings.values(), (first, second)):
        reading["git"]["head_migrations"] = checkout
        if api is None:
            reading["services"]["api"]["running"] = None
    gone = migration(RENAMED["name"], state="rolled_back", has_down=True)
    made = plan(readings, history(migration(INIT), migration(POSTS), gone))
    assert (made["database"]["undone"], made["database"]["stranded"]) == ([], expected)


def test_what_the_run_itself_took_down_can_be_taken_forward_again():
    assert taken_up()["database"]["stranded"] == []


def test_of_a_run_that_is_taken_up_again_the_build_from_before_its_first_change_is_known():
    assert taken_up()["hosts"]["app1"]["services"]["web"]["before_release"] == "v1.2.0"


def test_a_run_that_was_not_begun_before_has_nothing_to_take_up():
    made = plan()
    assert made["database"]["undone"] == [choice["name"] for choice in made["database"]["down"]]
    assert not made["hosts"]["app1"].get("touched")


def test_every_host_keeps_what_a_run_needs_that_takes_this_one_up():
    first = plan({"app1": stack(), "app2": stack()})
    kept = _plan_earlier.plan_to_keep(first, "app2")
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
        host: {**stack(), "run": {"plan": _plan_earlier.plan_to_keep(kept, host)}}
        for host, kept in (("app1", first), ("app2", second))
    }
    made = plan(readings, history(migration(INIT), migration(POSTS)))
    assert sorted(made["database"]["dumps"]) == sorted(second["database"]["dumps"])
    assert made["database"]["lost"] == first["database"]["lost"]
    assert len(made["hosts"]) == 2


def test_rows_that_were_lost_are_known_also_when_their_migrations_are_applied_again():
    # Killed in Restore, after migrate deploy and before the rows were back: the tables are empty.
    first = plan({"app1": stack()})
    reading = {**stack(), "run": {"plan": _plan_earlier.plan_to_keep(first, "app1")}}
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
    reading["run"] = {"plan": _plan_earlier.plan_to_keep(first, "app1")}
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
