"""Which hosts are switched next, how a rollout ends, and whose fault a failure is."""

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _plan, _plan_options, _rollout
from rollback_readings import INIT, POSTS, REACTED, RENAMED, container, digest, history, kept_build, migration, stack

PARTS = {"api": "application", "web": "frontend"}
KINDS = {"both": ("api", "web"), "api": ("api",), "web": ("web",)}


def read(runs="v1.2.0", services=("api", "web"), well=True, **api) -> dict:
    """Return a reading whose images differ from release to release; ``api`` changes the API's container."""
    found = stack(runs=runs, services=services)
    for name, service in found["services"].items():
        service["running"] = container(name, runs, image_id=f"sha256:{runs}", **(api if name == "api" else {}))
        service["health"] = {"status": 200 if well else 503}
    return found


def fleet(*kinds: str, runs=(), undo=False, lossy=False, parts=("application", "database", "frontend"), **settings):
    """Return the plan of a fleet of hosts h1, h2 and so on; ``runs`` are what they run, else v1.2.0."""
    names = [f"h{number}" for number in range(1, len(kinds) + 1)]
    rows = [migration(INIT), migration(POSTS)]
    if undo:
        rows += [RENAMED, REACTED if lossy else migration("20250304_more")]
    releases = [*runs, *["v1.2.0"] * (len(kinds) - len(runs))]
    stacks = {host: read(release, KINDS[kind]) for host, kind, release in zip(names, kinds, releases)}
    options = _plan_options.Options(
        release="v1.1.0",
        parts=parts,
        policy="auto",
        consent="v1.1.0",
        components={host: [PARTS[name] for name in KINDS[kind]] for host, kind in zip(names, kinds)},
        services={"application": "api", "frontend": "web"},
        run_id="run1",
        runner="h1",
        **settings,
    )
    made = _plan.make_plan(stacks, history(*rows), options)
    assert made["refusals"] == []
    return made


def marks(plan, hooks=True, **states: str) -> dict:
    """Return progresses: ``done``, or what failed (``host``, ``target``, ``rotation``), of hosts that were tried."""
    found = {}
    for host, state in states.items():
        begun = _rollout.begun(plan["hosts"][host])
        if state == "done":
            found[host] = {**begun, "status": "done", "touched": True, "traffic": True}
        else:
            touched = state != "rotation"
            found[host] = {**begun, "status": "failed", "fault": state, "touched": touched, "traffic": not hooks}
    return found


def progress(plan, **states: str) -> dict:
    return {**_rollout.start(plan), **marks(plan, **states)}


# Settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["canary", "50%", "100%"], ["canary", "50%", "100%"]),
        ([" canary ", 3, "1%"], ["canary", "3", "1%"]),
        (["101"], ["101"]),
        ([], ["canary", "50%", "100%"]),
    ],
)
def test_a_batch_is_the_canary_a_number_or_a_part_of_the_hosts(given, expected):
    assert _rollout.batch_sizes(given) == expected


@pytest.mark.parametrize("size", ["0", "0%", "101%", "-1", "half", "", "5 %", "canaries", "1.5"])
def test_a_batch_that_is_no_size_is_refused_by_its_variable(size):
    with pytest.raises(_rollout.RolloutError, match="rollback_batches has"):
        _rollout.batch_sizes(["canary", size])


@pytest.mark.parametrize(
    ("asked", "total", "expected"),
    [
        ("50%", 3, 2),
        ("50%", 2, 1),
        ("50%", 1, 1),
        ("0%", 5, 0),
        ("100%", 5, 5),
        ("250%", 5, 5),
        ("34%", 3, 2),
        ("2", 5, 2),
        (2, 5, 2),
        ("9", 5, 5),
        ("0", 5, 0),
        (" 3 ", 5, 3),
    ],
)
def test_a_part_of_the_hosts_that_have_to_serve_is_rounded_up_and_never_more_than_there_are(asked, total, expected):
    assert _rollout.at_least(asked, total) == expected


@pytest.mark.parametrize("asked", ["half", "-1", "", "1.5", "50 %"])
def test_how_many_have_to_serve_is_refused_when_it_is_no_number(asked):
    with pytest.raises(_rollout.RolloutError, match="rollback_min_serving"):
        _rollout.at_least(asked, 3)


def test_a_host_is_of_the_kind_of_the_parts_that_it_carries():
    assert _rollout.kind(["frontend", "application"]) == _rollout.kind(["application", "frontend"])


# The beginning


def test_a_host_that_changes_is_pending_and_one_at_the_target_is_done_without_being_touched():
    plan = fleet("both", "both", runs=["v1.1.0"])
    assert _rollout.start(plan) == {
        "h1": {"status": "done", "fault": "", "traffic": True, "touched": False, "drained": False},
        "h2": {"status": "pending", "fault": "", "traffic": False, "touched": False, "drained": False},
    }


def test_a_host_that_the_load_balancer_has_drained_begins_so():
    assert _rollout.start(fleet("both", runs=["v1.1.0"], drained={"h1": True}))["h1"]["drained"] is True


# Batches


def batches(plan) -> list[tuple[str, list[str]]]:
    return [(step["name"], step["hosts"]) for step in _rollout.forecast(plan)]


def numbered(first: int, last: int) -> list[str]:
    return [f"h{number}" for number in range(first, last + 1)]


@pytest.mark.parametrize(
    ("kinds", "settings", "expected"),
    [
        (["both"], {}, [("canary", ["h1"])]),
        (["both"] * 2, {}, [("canary", ["h1"]), ("50%", ["h2"])]),
        (["both"] * 3, {}, [("canary", ["h1"]), ("50%", ["h2"]), ("100%", ["h3"])]),
        (
            ["both"] * 10,
            {},
            [("canary", ["h1"]), ("50%", numbered(2, 6)), ("100%", numbered(7, 10))],
        ),
        (["api", "web"], {}, [("canary", ["h1", "h2"])]),
        # Of the hosts that share a part one goes on serving it.
        (["api", "both", "web"], {}, [("canary", ["h1", "h3"]), ("canary", ["h2"])]),
        (["both", "api"], {}, [("canary", ["h1"]), ("canary", ["h2"])]),
        (["api", "both", "web"], {"undo": True}, [("canary", ["h1", "h2", "h3"])]),
        (
            ["api", "api", "api", "web", "web"],
            {},
            [("canary", ["h1", "h4"]), ("50%", ["h2", "h5"]), ("100%", ["h3"])],
        ),
        (["both"] * 4, {"batches": ("1",)}, [("1", ["h1"]), ("1", ["h2"]), ("1", ["h3"]), ("1", ["h4"])]),
        (["both"] * 3, {"batches": ("canary",)}, [("canary", ["h1"]), ("100%", ["h2", "h3"])]),
        (["both"] * 3, {"batches": ("1", "canary")}, [("1", ["h1"]), ("100%", ["h2", "h3"])]),
        (
            ["both"] * 4,
            {"batches": ("canary", "canary", "2")},
            [("canary", ["h1"]), ("2", ["h2", "h3"]), ("2", ["h4"])],
        ),
        (["both"] * 3, {"batches": ("100%",)}, [("100%", ["h1", "h2", "h3"])]),
        (["both"] * 3, {"batches": ("10%", "100%")}, [("10%", ["h1"]), ("100%", ["h2", "h3"])]),
        # The writers are stopped everywhere: what was set would only prolong that.
        (["both"] * 4, {"undo": True, "batches": ("1",)}, [("canary", ["h1"]), ("100%", ["h2", "h3", "h4"])]),
        (["both"] * 3, {"runs": ["v1.1.0"]}, [("canary", ["h2"]), ("50%", ["h3"])]),
        (["both"] * 2, {"runs": ["v1.1.0", "v1.1.0"]}, []),
    ],
)
def test_hosts_are_switched_kind_by_kind_in_the_batches_that_were_set(kinds, settings, expected):
    assert batches(fleet(*kinds, **settings)) == expected


def test_batches_are_numbered_from_one():
    assert [step["number"] for step in _rollout.forecast(fleet("both", "both", "both"))] == [1, 2, 3]


def after(plan, *results: dict) -> dict:
    """Return the step that follows when each batch came to ``{host: state}``."""
    step, known = _rollout.next_step(plan, {}), {}
    for result in results:
        assert set(result) == set(step["hosts"])
        known.update(marks(plan, **result))
        step = _rollout.next_step(plan, known, step)
    return step


def test_a_canary_that_failed_by_its_own_fault_is_followed_by_another_canary():
    step = after(fleet(*["both"] * 4), {"h1": "host"})
    assert (step["name"], step["hosts"], step["end"]) == ("canary", ["h2"], "")


def test_only_the_kind_whose_canary_failed_gets_another_one():
    step = after(fleet("api", "api", "web", "web"), {"h1": "done", "h3": "host"})
    assert (step["name"], step["hosts"]) == ("canary", ["h4"])


def test_a_later_host_that_failed_does_not_keep_the_next_batch():
    step = after(fleet(*["both"] * 4), {"h1": "done"}, {"h2": "host", "h3": "done"})
    assert (step["name"], step["hosts"]) == ("100%", ["h4"])


def test_when_every_host_was_tried_the_rollout_is_complete():
    step = after(fleet("both", "both"), {"h1": "done"}, {"h2": "host"})
    assert (step["end"], step["hosts"], step["why"]) == ("complete", [], "")


def test_a_host_that_was_tried_and_left_no_word_failed_and_is_not_tried_again():
    plan = fleet(*["both"] * 3)
    first = _rollout.next_step(plan, {})
    assert _rollout.next_step(plan, {}, first)["hosts"] == ["h2"]
    alone = fleet("both")
    assert _rollout.next_step(alone, {}, _rollout.next_step(alone, {}))["end"] == "restore"


def test_a_host_that_could_not_be_drained_is_held_when_the_others_are_at_the_target():
    step = after(fleet("both", "both"), {"h1": "done"}, {"h2": "rotation"})
    assert (step["end"], step["why"]) == ("drain", "h2 cannot be taken out of rotation")


# Judgement


def judged(plan, **states: str) -> str:
    return _rollout.judge(plan, progress(plan, **states))[0]


@pytest.mark.parametrize(
    ("settings", "states", "expected"),
    [
        ({}, {}, ""),
        ({}, {"h1": "done"}, ""),
        # A target that does not run well on its canary.
        ({}, {"h1": "target"}, "restore"),
        ({"on_failure": "restore"}, {"h1": "target"}, "restore"),
        ({"on_failure": "hold"}, {"h1": "target"}, "stop"),
        # One that runs well elsewhere.
        ({}, {"h1": "done", "h2": "target"}, ""),
        ({"on_failure": "hold"}, {"h1": "done", "h2": "target"}, ""),
        ({"on_failure": "restore"}, {"h1": "done", "h2": "target"}, "restore"),
        ({"on_failure": "restore"}, {"h1": "host"}, "restore"),
        # Too many: as many as have to serve run the target already, or they do not.
        ({}, {"h1": "host"}, ""),
        ({}, {"h1": "host", "h2": "host"}, "restore"),
        ({"max_failed": 0}, {"h1": "host"}, "restore"),
        ({"max_failed": 2}, {"h1": "host", "h2": "host"}, ""),
        ({"max_failed": 2}, {"h1": "host", "h2": "host", "h3": "host"}, "restore"),
        ({}, {"h1": "done", "h2": "host", "h3": "host"}, "restore"),
        ({}, {"h1": "done", "h2": "done", "h3": "host", "h4": "host"}, "drain"),
        ({"min_serving": "1"}, {"h1": "done", "h2": "host", "h3": "host"}, "drain"),
        ({"on_failure": "hold"}, {"h1": "done", "h2": "host", "h3": "host"}, "drain"),
        ({"on_failure": "hold"}, {"h1": "host", "h2": "host"}, "stop"),
        # Too few left, though not too many failed.
        ({"max_failed": 4}, {"h1": "host", "h2": "host", "h3": "host"}, "restore"),
        ({"max_failed": 4, "min_serving": "0"}, {"h1": "host", "h2": "host", "h3": "host"}, ""),
        ({"max_failed": 4, "min_serving": "0"}, dict.fromkeys(numbered(1, 4), "host"), "restore"),
        ({"max_failed": 4, "min_serving": "3"}, {"h1": "done", "h2": "host", "h3": "host"}, "restore"),
        # The load balancer.
        ({}, {"h1": "rotation"}, "stop"),
        ({}, {"h1": "done", "h2": "rotation"}, ""),
        ({"on_failure": "restore"}, {"h1": "rotation"}, "stop"),
        ({"undo": True}, {"h1": "rotation"}, "restore"),
        ({"undo": True, "lossy": True}, {"h1": "rotation"}, "restore"),
        # After data was lost, only before the target got traffic.
        ({"undo": True, "lossy": True}, {"h1": "target"}, "restore"),
        ({"undo": True, "lossy": True, "on_failure": "restore"}, {"h1": "done", "h2": "host"}, "stop"),
        ({"undo": True, "lossy": True}, {"h1": "done", "h2": "host", "h3": "host"}, "drain"),
        ({"undo": True}, {"h1": "done", "h2": "host", "h3": "host"}, "restore"),
    ],
)
def test_what_failed_decides_how_a_fleet_of_four_goes_on(settings, states, expected):
    assert judged(fleet(*["both"] * 4, **settings), **states) == expected


@pytest.mark.parametrize(
    ("states", "settings", "expected"),
    [
        ({"h3": "target"}, {}, "restore"),
        ({"h1": "done", "h3": "target"}, {}, "restore"),
        ({"h3": "done", "h4": "target"}, {}, ""),
        ({"h3": "host", "h4": "host"}, {"max_failed": 2}, "restore"),
        # To hold all the pages because the API is done would leave no page.
        ({"h1": "done", "h3": "host", "h4": "host"}, {"on_failure": "hold"}, "stop"),
        ({"h1": "done", "h3": "done", "h2": "host", "h4": "host"}, {}, "drain"),
    ],
)
def test_a_kind_of_host_is_judged_by_hosts_of_its_parts(states, settings, expected):
    assert judged(fleet("api", "api", "web", "web", **settings), **states) == expected


def test_hosts_that_together_carry_both_parts_prove_the_target_for_one_that_carries_both():
    plan = fleet("api", "web", "both")
    assert judged(plan, h1="done", h2="done", h3="target") == ""
    assert judged(plan, h1="done", h3="target") == "restore"


def test_a_host_that_was_at_the_target_before_proves_it_only_when_it_is_healthy():
    plan = fleet("both", "both", "both", runs=["v1.1.0"])
    assert judged(plan, h2="target") == ""
    plan["hosts"]["h1"]["services"]["api"]["health"] = 503
    assert judged(plan, h2="target") == "restore"


def test_where_some_hosts_were_at_the_target_already_the_others_are_not_put_back():
    plan = fleet("both", "both", "both", runs=["v1.1.0"])
    assert judged(plan, h2="host", h3="host") == "drain"
    assert judged(fleet("both", "both", "both", "both"), h2="host", h3="host") == "restore"


def test_on_a_schema_that_lacks_what_the_release_from_before_needs_nobody_goes_back():
    plan = fleet("both", "both")
    assert judged(plan, h1="target") == "restore"
    plan["database"]["stranded"] = [RENAMED["name"]]
    assert judged(plan, h1="target") == "stop"
    why = _rollout.judge(plan, progress(plan, h1="target"))[1]
    assert f"it needs {RENAMED['name']}, which an earlier run took down" in why


def test_hosts_whose_parts_do_not_move_are_no_fleet_that_was_begun_already():
    plan = fleet("api", "web", "web", "web", parts=("frontend",), min_serving="100%")
    assert plan["hosts"]["h1"]["change"] is False
    assert judged(plan, h2="done", h3="host", h4="host") == "restore"


@pytest.mark.parametrize(
    ("settings", "states", "text"),
    [
        ({}, {"h1": "target"}, "v1.1.0 does not run well on h1"),
        ({}, {"h1": "rotation"}, "h1 cannot be taken out of rotation"),
        ({"on_failure": "restore"}, {"h1": "host"}, "h1 failed, and rollback_on_failure is restore"),
        ({}, {"h1": "host", "h2": "host"}, "2 hosts failed (h1, h2), more than rollback_max_failed (1)"),
        (
            {"min_serving": "100%"},
            {"h1": "host"},
            "3 hosts are left for the application, fewer than rollback_min_serving (4)",
        ),
        (
            {"undo": True, "lossy": True, "on_failure": "restore"},
            {"h1": "done", "h2": "host"},
            "h2 failed, and rollback_on_failure is restore; the release from before is not put back: v1.1.0 already "
            "had traffic after data was lost",
        ),
    ],
)
def test_an_end_says_why(settings, states, text):
    plan = fleet(*["both"] * 4, **settings)
    assert _rollout.judge(plan, progress(plan, **states))[1] == text


@pytest.mark.parametrize(
    ("settings", "mark", "expected"),
    [
        ({}, {"traffic": True, "touched": True}, True),
        ({"undo": True}, {"traffic": True, "touched": True}, True),
        ({"undo": True, "lossy": True}, {"traffic": True, "touched": True}, False),
        ({"undo": True, "lossy": True}, {"traffic": False, "touched": True}, True),
        ({"undo": True, "lossy": True}, {"traffic": True, "touched": False}, True),
    ],
)
def test_after_data_was_lost_a_host_goes_back_only_before_the_target_got_traffic(settings, mark, expected):
    plan = fleet("both", "both", **settings)
    assert _rollout.can_restore(plan, {**_rollout.start(plan), "h1": mark}) is expected


@pytest.mark.parametrize(
    ("settings", "states", "expected"),
    [
        ({}, {"h1": "done", "h3": "done"}, True),
        ({}, {"h1": "done"}, False),
        ({"min_serving": "100%"}, {"h1": "done", "h3": "done"}, False),
        ({"min_serving": "0"}, {"h1": "done"}, False),
        ({"min_serving": "0"}, {"h1": "done", "h4": "done"}, True),
    ],
)
def test_enough_hosts_serve_when_there_are_enough_for_each_part_and_one_at_least(settings, states, expected):
    plan = fleet("api", "api", "web", "web", **settings)
    assert _rollout.serves_enough(plan, progress(plan, **states)) is expected


# Faults


def target(**api) -> dict:
    return read("v1.1.0", **api)


def with_engine(reading: dict, **engine) -> dict:
    reading["engine"].update(engine)
    return reading


@pytest.mark.parametrize(
    ("reading", "fault"),
    [
        ({}, "host"),
        ({"unreachable": True, "msg": "timed out"}, "host"),
        ({"failed": True, "msg": "no Python"}, "host"),
        ({**target(state="exited"), "failed": True}, "host"),
        ({**target(state="exited"), "unreachable": True}, "host"),
        ({"services": {}}, "host"),
        (with_engine(target(state="exited"), version=""), "host"),
        (with_engine(target(state="exited"), free_mb=99), "host"),
        (with_engine(target(state="exited"), free_mb=100), "target"),
        (with_engine(target(state="exited"), free_mb=None), "target"),
        (target(state="restarting"), "target"),
        (target(health="unhealthy"), "target"),
        (target(state="created"), "host"),
        (read("v1.1.0", well=False), "target"),
        # It never got to the target, or the target runs well there: an undrain failed, say.
        (read("v1.2.0", well=False), "host"),
        (target(), "host"),
    ],
)
def test_a_fault_is_the_targets_when_it_ran_there_and_not_well_and_else_the_hosts(reading, fault):
    assert _rollout.fault_of(fleet("both"), "h1", reading) == fault


def test_a_service_without_a_container_says_nothing_of_the_target():
    reading = target()
    for service in reading["services"].values():
        service["running"] = None
    assert _rollout.fault_of(fleet("both"), "h1", reading) == "host"


def test_a_service_that_nobody_can_ask_is_not_called_sick():
    reading = target()
    for service in reading["services"].values():
        service["health"] = None
    assert _rollout.fault_of(fleet("both"), "h1", reading) == "host"


def test_a_service_that_was_not_switched_is_not_judged_unless_its_writers_were_stopped():
    plan = fleet("both", runs=["v1.1.0"], drained={"h1": True})
    assert _rollout.fault_of(plan, "h1", read("v1.1.0", well=False)) == "host"
    undone = fleet("both", runs=["v1.1.0"], undo=True)
    assert _rollout.fault_of(undone, "h1", read("v1.1.0", well=False)) == "target"


def test_an_api_that_answers_badly_because_the_database_is_down_is_not_the_targets_fault():
    plan = fleet("both")
    plan["database"]["reachable"] = False
    reading = target(health="unhealthy")
    reading["services"]["api"]["health"] = {"status": 503}
    assert _rollout.fault_of(plan, "h1", reading) == "host"
    reading["services"]["web"]["health"] = {"status": 500}
    assert _rollout.fault_of(plan, "h1", reading) == "target"


# What runs


@pytest.mark.parametrize(
    ("planned", "service", "expected"),
    [
        ({"digest": "sha256:a"}, {"running": {"repo_digests": ["r/api@sha256:a"]}}, True),
        ({"digest": "sha256:a"}, {"running": {"repo_digests": ["r/api@sha256:b"], "image_id": "sha256:a"}}, True),
        ({"digest": "sha256:a"}, {"running": {"repo_digests": ["r/api@sha256:b"], "image": "r/api:v1"}}, False),
        ({"digest": ""}, {"running": {"image": "r/api:v1"}}, True),
        ({"digest": ""}, {"running": {"image": "r/api:v2"}}, False),
        ({"digest": "", "image": ""}, {"running": {"image": ""}}, False),
        ({"digest": "sha256:a"}, {"running": None}, False),
        ({"build_id": "b1"}, {"build_id": "b1", "running": None}, True),
        ({"build_id": "b1", "digest": "sha256:a"}, {"build_id": "b2", "running": {"image_id": "sha256:a"}}, False),
        ({"build_id": ""}, {"build_id": ""}, False),
    ],
)
def test_what_runs_is_the_target_by_digest_by_build_and_by_name_only_where_that_is_all(planned, service, expected):
    assert _rollout.runs_target({"build_id": None, "image": "r/api:v1", "digest": "", **planned}, service) is expected


@pytest.mark.parametrize(
    ("planned", "service", "expected"),
    [
        ({"before_image_id": "sha256:a"}, {"running": {"image_id": "sha256:a"}}, True),
        ({"before_image_id": "sha256:a"}, {"running": {"image_id": "sha256:b"}}, False),
        ({"before_image_id": ""}, {"running": {"image_id": ""}}, False),
        ({"before_image_id": "sha256:a"}, {"running": None}, False),
        ({"build_id": "b1", "before_build_id": "b2"}, {"build_id": "b2"}, True),
        ({"build_id": "b1", "before_build_id": "b2"}, {"build_id": "b1"}, False),
        ({"build_id": "b1", "before_build_id": ""}, {"build_id": ""}, False),
        ({"before_state": "absent"}, {"running": {"image": "r/api:v1.2.0"}}, True),
        ({"before_state": "absent"}, {"running": {"image": "r/api:v1.1.0"}}, False),
        ({"before_state": "absent"}, {"running": None}, False),
    ],
)
def test_what_runs_is_from_before_by_image_by_build_and_by_name_only_where_nothing_ran(planned, service, expected):
    given = {"build_id": None, "before_image_id": "", "before_build_id": "", "before_state": "running", **planned}
    assert _rollout.runs_before(given, service, "v1.2.0") is expected


def test_without_a_release_before_nothing_is_from_before():
    planned = {"build_id": None, "before_image_id": "", "before_build_id": "", "before_state": "absent"}
    assert _rollout.runs_before(planned, {"running": {"image": ""}}, "") is False


# Restored


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (read(), []),
        (read("v1.1.0"), ["api: its container is not of what ran before (v1.2.0)"] * 2),
        ({}, ["api: its container is not of what ran before (v1.2.0)"] * 2),
        ({"unreachable": True}, ["api: its container is not of what ran before (v1.2.0)"] * 2),
        (read(state="exited"), ["api: its container is exited"]),
        (read(well=False), ["api: it answers 503, and 200 before"] * 2),
    ],
)
def test_a_restored_host_is_doubted_for_what_it_lacks_of_how_it_was(reading, expected):
    found = _rollout.restore_doubts(fleet("both"), "h1", reading)
    assert found[:1] == expected[:1]
    assert len(found) == len(expected)


def test_a_service_that_answers_nothing_is_told_so():
    reading = read()
    reading["services"]["web"]["health"] = None
    assert _rollout.restore_doubts(fleet("both"), "h1", reading) == ["web: it answers nothing, and 200 before"]


@pytest.mark.parametrize(("state", "health"), [("running", 503), ("running", None), ("exited", 0)])
def test_a_release_that_was_not_well_before_need_not_be_well_again(state, health):
    plan = fleet("both")
    plan["hosts"]["h1"]["services"]["api"].update(before_state=state, before_health=health)
    reading = read(state=state)
    reading["services"]["api"]["health"] = {"status": 503}
    assert _rollout.restore_doubts(plan, "h1", reading) == []


def test_a_part_that_was_not_switched_is_not_looked_at():
    plan = fleet("both", parts=("frontend",))
    reading = read()
    reading["services"]["api"]["running"] = None
    assert _rollout.restore_doubts(plan, "h1", reading) == []


@pytest.mark.parametrize(("runs", "doubts"), [("v1.1.0", 2), ("v1.2.0", 0), (None, 0)])
def test_a_host_that_had_no_containers_may_have_those_from_before_but_not_the_targets(runs, doubts):
    plan = fleet("both")
    for service in plan["hosts"]["h1"]["services"].values():
        service.update(before_state="absent", before_image_id="", before="not running", before_health=None)
    reading = read(runs or "v1.2.0")
    if runs is None:
        for service in reading["services"].values():
            service["running"] = None
    assert len(_rollout.restore_doubts(plan, "h1", reading)) == doubts


def test_a_kept_build_is_back_when_its_container_serves_it():
    made = _plan.make_plan(
        {"h1": kept_build(read(), "v1.2.0", "build-v1.1.0")},
        history(migration(INIT), migration(POSTS)),
        _plan_options.Options(
            release="v1.1.0",
            parts=("frontend",),
            policy="auto",
            consent="",
            components={"h1": ["application", "frontend"]},
            services={"application": "api", "frontend": "web"},
            run_id="run1",
        ),
    )
    planned = made["hosts"]["h1"]["services"]["web"]
    assert (planned["before_build_id"], planned["digest"]) == ("build-v1.2.0", "")
    assert _rollout.restore_doubts(made, "h1", kept_build(read(), "v1.2.0", "build-v1.1.0")) == []
    assert len(_rollout.restore_doubts(made, "h1", kept_build(target(), "v1.1.0", "build-v1.1.0"))) == 1


def test_the_plan_carries_what_a_host_is_judged_by():
    planned = fleet("both")["hosts"]["h1"]["services"]["api"]
    assert (planned["digest"], planned["before_image_id"]) == (digest("api", "v1.1.0"), "sha256:v1.2.0")


@pytest.mark.parametrize(
    ("reading", "fault"),
    [
        # It answers 200 here, and what it answers is not what the target has to.
        (target(), "target"),
        # Its new container was removed for being unhealthy, and the old one serves.
        (read("v1.2.0"), "target"),
        (with_engine(target(), free_mb=99), "host"),
        (with_engine(target(), version=""), "host"),
        ({"unreachable": True}, "host"),
    ],
)
def test_what_a_gate_finds_wrong_on_a_host_that_is_well_is_the_targets_fault(reading, fault):
    assert _rollout.fault_of(fleet("both"), "h1", reading, True) == fault


def test_a_host_begins_with_what_an_earlier_try_did_to_it():
    entry = fleet("both")["hosts"]["h1"]
    assert _rollout.begun(entry)["traffic"] is False
    assert _rollout.begun({**entry, "touched": True})["traffic"] is False
    assert _rollout.begun({**entry, "touched": True, "traffic": True})["traffic"] is True


def taken_up(*at_target: str, **changes) -> dict:
    """Return the plan of a run that is taken up when some hosts serve the target: all go through their gates again."""
    plan = fleet(*["both"] * 3, runs=["v1.1.0" if host in at_target else "v1.2.0" for host in numbered(1, 3)])
    for entry in plan["hosts"].values():
        entry.update({"change": True, "touched": True, **changes})
    return plan


def test_a_target_that_serves_since_an_earlier_try_is_not_bad_where_another_host_is_sick():
    assert judged(taken_up("h2", "h3"), h1="target") == ""
    assert judged(taken_up(), h1="target") == "restore"
    assert judged(taken_up("h2", "h3", out=True), h1="target") == "restore"
    offline = {**taken_up("h2", "h3"), "online": False}
    assert judged(offline, h1="target") == "restore"


# The database forward again


def test_an_api_host_that_went_back_takes_the_database_forward_and_the_next_one_when_it_cannot():
    plan = fleet("web", "api", "both", undo=True)

    assert _rollout.migrating_host(plan, ["h1", "h2", "h3"]) == "h2"
    assert _rollout.migrating_host(plan, ["h1", "h2", "h3"], tried=["h2"]) == "h3"
    assert _rollout.migrating_host(plan, ["h3"], tried=["h2"]) == "h3"


def test_no_host_takes_the_database_forward_that_has_no_api_did_not_go_back_or_tried():
    plan = fleet("web", "api", "both", undo=True)

    assert _rollout.migrating_host(plan, ["h1"]) == ""
    assert _rollout.migrating_host(plan, ["h2", "h3"], tried=["h2", "h3"]) == ""
    # The load balancer's host, which is in the run and not in the plan.
    assert _rollout.migrating_host(plan, ["lb", "h3"]) == "h3"


def test_the_writers_start_again_on_the_database_that_they_know():
    plan = fleet("both", "web", undo=True)
    known = {"git": {"head_migrations": [INIT, POSTS, "20250304_more"]}}

    assert _rollout.writers_may_start(plan, "h1", known)
    assert not _rollout.writers_may_start(plan, "h2", known), "it has none"
    # An earlier try of this run had committed a migration.
    plan["database"]["undone"].append("20250305_gone")
    assert not _rollout.writers_may_start(plan, "h1", known)


@pytest.mark.parametrize(
    ("rolled_back", "out", "expected"),
    [
        pytest.param([], False, True, id="an earlier run stopped them, and changed nothing"),
        pytest.param(["20250304_more"], False, False, id="an earlier run took one of their migrations down"),
        pytest.param(["20250101_other"], False, True, id="what went down is none of theirs"),
        pytest.param([], True, False, id="an earlier run holds the host"),
    ],
)
def test_where_no_writer_ran_it_is_seen_by_the_database_and_the_rotation_whether_they_start(rolled_back, out, expected):
    plan = fleet("api", undo=True)
    plan["hosts"]["h1"]["services"]["api"]["before_state"] = "absent"
    plan["hosts"]["h1"]["out"] = out
    plan["database"]["rolled_back"] = rolled_back
    known = {"git": {"head_migrations": [INIT, POSTS, "20250304_more"]}}

    assert _rollout.writers_may_start(plan, "h1", known) == expected


def test_only_dumps_that_were_made_of_what_was_lost_are_put_back_in_the_order_of_the_plan():
    plan = {"database": {"dumps": ["/b/second", "/b/killed", "/b/first"]}}
    lost, whole = {"kind": "lost"}, {"kind": "all"}
    backups = [
        {"path": "/b/first", "dumps": [whole, lost]},
        {"path": "/b/second", "dumps": [lost]},
        {"path": "/b/killed", "dumps": [whole]},
        {"path": "/b/of another run", "dumps": [lost]},
    ]

    assert _rollout.lost_dumps(plan, backups) == ["/b/second", "/b/first"]
    assert _rollout.lost_dumps(plan, []) == []
