"""What came of a run: which release serves users, what is claimed of it, and what to type next."""

from __future__ import annotations

from copy import deepcopy

import plans
import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _outcome, _report
from rollback_readings import INIT, POSTS, REACTED, REACTIONS, RENAME, RENAMED, container, history, migration, stack

FULL = ("application", "database", "frontend")
PARTS = {"api": "application", "web": "frontend"}
PHASES = [{"name": "Prepare", "at": 100.0}, {"name": "Switch", "at": 112.34}, {"name": "end", "at": 115}]
DUMP = {"id": "run1", "kind": "full", "file": "/backups/run1/full.dump", "size": 2048, "sha256": "ab" * 32, "more": 1}
ONLINE = (migration(INIT), migration(POSTS))
UNDO = (*ONLINE, RENAMED, REACTED)
# What a host is on after the run. The engine that does not answer may start the containers again.
GONE = "gone"
LOST: dict = {}


def read(runs="v1.1.0", services=("api", "web"), well=True, engine="28.0.0", **api) -> dict:
    """Return a reading of a release's own images; ``gone`` has no containers, ``api`` changes the API's."""
    found = stack(runs="v1.1.0" if runs == GONE else runs, services=services)
    found["engine"]["version"] = engine
    for name, service in found["services"].items():
        release = api.get("release", runs) if name == "api" else runs
        changes = {key: value for key, value in api.items() if key != "release"} if name == "api" else {}
        service["running"] = None if runs == GONE else container(name, release, image_id=f"sha256:{release}", **changes)
        service["health"] = {"status": 200 if well and runs != GONE else 503}
    return found


def plan(before=None, rows=ONLINE, **changes) -> dict:
    """Return the plan of app1 and app2, which run v1.2.0, to v1.1.0."""
    before = before or {"app1": read("v1.2.0"), "app2": read("v1.2.0")}
    own = {
        "components": {host: [PARTS[name] for name in reading["services"]] for host, reading in before.items()},
        "project_dirs": dict.fromkeys(("app1", "app2"), "/srv/connectin"),
        "hooks": True,
    }
    made = plans.plan(before, history(*rows), **{**own, **changes})
    assert made["refusals"] == []
    return made


def mark(status: str, **changes) -> dict:
    touched = status in ("done", "failed", "restored")
    known = {"status": status, "fault": "", "touched": touched, "traffic": touched, "drained": False}
    return {**known, **changes}


DONE, PENDING, RESTORED = mark("done"), mark("pending"), mark("restored")
HELD = mark("failed", fault="host", drained=True)
LEFT_IN = mark("failed", fault="host")
FAULT = [{"phase": "Switch", "message": "no space left"}]


def came(
    now=None,
    marks=None,
    failures=None,
    made=None,
    end="complete",
    rolled_back=(),
    forward=False,
    backups=(),
    locks=None,
) -> dict:
    """Return the outcome; without words to the contrary every host was locked and switched, and runs the target."""
    made = made or plan()
    hosts = list(made["hosts"])
    if now is None:
        now = {host: read(services=tuple(made["hosts"][host]["services"])) for host in hosts}
    run = {
        "phases": PHASES,
        "rolled_back": list(rolled_back),
        "backups": list(backups),
        "progress": dict.fromkeys(hosts, DONE) if marks is None else marks,
        "step": {"end": end, "why": "a reason"},
        "forward": forward,
        "locks": dict.fromkeys(hosts, {"failed": False, "lock": {"held": True}}) if locks is None else locks,
    }
    return _outcome.outcome(made, failures or {}, now, run)


def two(first, second) -> dict:
    return {"app1": first, "app2": second}


# Reached


def test_a_run_without_failures_reached_its_target_on_every_host():
    result = came()
    assert result["result"] == "reached"
    assert result["hosts"]["app1"] == {
        "before": "v1.2.0",
        "target": "v1.1.0",
        "now": {"api": "v1.1.0 running 200", "web": "v1.1.0 running 200"},
        "serves": "target",
        "in_rotation": True,
        "unsure": False,
        "status": "done",
        "reasons": [],
        "next": "",
    }
    assert (result["why"], result["run_id"], result["release"]) == ("a reason", "run1", "v1.1.0")
    assert (result["fleet"], result["rolled_back"], result["forward"], result["backups"]) == ([], [], False, [])


def test_a_fleet_that_was_at_the_target_reached_it_without_a_rollout():
    made = plan(two(read(), read()))
    assert made["changed"] is False
    run = {"phases": [], "rolled_back": [], "progress": {}}
    result = _outcome.outcome(made, {}, two(read(), read()), run)
    assert (result["result"], result["why"]) == ("reached", "")


def test_the_target_is_not_reached_by_a_host_that_is_out_of_rotation_without_a_failure():
    assert came(marks=two(DONE, mark("done", drained=True)))["result"] == "held"


@pytest.mark.parametrize(("hooks", "expected"), [(True, "reached"), (False, "held")])
def test_a_host_that_was_drained_before_is_given_back_only_where_something_can_do_it(hooks, expected):
    made = plan(drained={"app2": True}, hooks=hooks)
    result = came(made=made)
    assert result["result"] == expected
    assert result["hosts"]["app2"]["in_rotation"] is hooks


def test_a_host_that_only_runs_the_database_s_part_serves_nobody_and_is_no_doubt():
    before = {"app1": read("v1.2.0"), "db1": read("v1.2.0", services=())}
    made = plan(before)
    assert made["hosts"]["db1"]["change"], "its checkout is"
    now = {"app1": read(), "db1": read(services=())}
    assert came(now, made=made)["result"] == "reached"


# Held


@pytest.mark.parametrize(
    ("second", "state", "expected"),
    [
        # The load balancer said that it is out: what it runs, or whether it answers, is the same then.
        (LOST, HELD, "held"),
        (read("v1.2.0"), HELD, "held"),
        (read(well=False), HELD, "held"),
        # Without one, nothing may be left on it that would serve.
        (read(GONE), LEFT_IN, "held"),
        (LOST, LEFT_IN, "unresolved"),
        ({"unreachable": True, "msg": "timed out"}, LEFT_IN, "unresolved"),
        (read("v1.2.0"), LEFT_IN, "unresolved"),
        (read(well=False), LEFT_IN, "unresolved"),
        (read(), LEFT_IN, "unresolved"),
        (read(release="v1.2.0"), LEFT_IN, "unresolved"),
        (read("v0.9.0"), LEFT_IN, "unresolved"),
        # Its containers come back with the engine.
        (read(GONE, engine=""), LEFT_IN, "unresolved"),
        (read(state="restarting"), LEFT_IN, "unresolved"),
        # A host that was not touched and is lost may serve what it had.
        (LOST, PENDING, "unresolved"),
    ],
)
def test_a_host_is_held_only_when_it_is_shown_that_it_does_not_serve(second, state, expected):
    result = came(two(read(), second), two(DONE, state), {"app2": FAULT})
    assert result["result"] == expected
    assert result["hosts"]["app2"]["next"]


@pytest.mark.parametrize("state", ["exited", "created", "dead", "paused", "restarting"])
def test_a_container_that_stopped_on_a_host_that_was_switched_may_come_back(state):
    second = read(state=state)
    second["services"]["web"]["running"]["state"] = state
    assert came(two(read(), second), two(DONE, LEFT_IN), {"app2": FAULT})["result"] == "unresolved"


def test_a_part_that_no_host_serves_any_more_is_no_end_to_be_proud_of():
    before = {"api1": read("v1.2.0", ("api",)), "web1": read("v1.2.0", ("web",))}
    now = {"api1": read(services=("api",)), "web1": read(GONE, ("web",))}
    marks = {"api1": DONE, "web1": HELD}
    result = came(now, marks, {"web1": FAULT}, plan(before, runner="api1"))
    assert result["result"] == "unresolved"


@pytest.mark.parametrize(("phase", "expected"), [("Verify", "unresolved"), ("Switch", "unresolved")])
def test_a_host_that_failed_and_stays_in_rotation_is_not_proved_by_what_it_runs(phase, expected):
    result = came(failures={"app2": [{"phase": phase, "message": "answered 503"}]})
    assert result["result"] == expected


def test_a_failure_of_the_fleet_leaves_the_target_unproved():
    result = came(failures={"fleet": [{"phase": "Verify", "message": "the poll failed"}]})
    assert result["result"] == "unresolved"
    assert result["fleet"] == [{"phase": "Verify", "message": "the poll failed"}]


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        (read(), "stop", "held"),
        (read(well=False), "stop", "unresolved"),
        (read(well=False), "complete", "held"),
        (read(well=False), "drain", "held"),
        (LOST, "stop", "unresolved"),
    ],
)
def test_where_verify_did_not_look_the_last_reading_has_to_show_that_the_target_answers(first, end, expected):
    assert came(two(first, LOST), two(DONE, HELD), {"app2": FAULT}, end=end)["result"] == expected


def test_a_lost_host_that_was_at_the_target_is_taken_for_it_and_for_no_proof_of_it():
    made = plan(two(read(), read("v1.2.0")))
    result = came(two(LOST, read(GONE)), {"app2": HELD}, {"app2": FAULT}, made, end="stop")
    assert result["hosts"]["app1"]["serves"] == "target"
    assert result["result"] == "unresolved"


def test_the_target_does_not_serve_well_on_a_database_that_went_forward_again():
    made = plan(rows=UNDO)
    now = two(read(), LOST)
    result = came(now, two(DONE, HELD), {"app2": FAULT}, made, "restore", [RENAME], forward=True)
    assert result["result"] == "unresolved"


# Restored


@pytest.mark.parametrize(
    ("second", "state", "expected"),
    [
        (read("v1.2.0"), RESTORED, "restored"),
        (read("v1.2.0"), PENDING, "restored"),
        # Held by the load balancer's word, and named.
        (LOST, HELD, "restored"),
        # The readings do not show it.
        (LOST, LEFT_IN, "unresolved"),
        (read(), RESTORED, "unresolved"),
        (read(release="v1.2.0"), RESTORED, "unresolved"),
        (read("v1.2.0", well=False), RESTORED, "unresolved"),
        (read("v1.2.0", state="exited"), RESTORED, "unresolved"),
        (read(GONE, engine=""), LEFT_IN, "unresolved"),
        # Never touched, it can only serve what it had.
        (LOST, PENDING, "restored"),
        (read("v1.2.0", well=False), PENDING, "restored"),
    ],
)
def test_the_release_before_serves_again_only_when_every_host_that_serves_shows_it(second, state, expected):
    marks = two(mark("restored", fault="target"), state)
    result = came(two(read("v1.2.0"), second), marks, {"app1": FAULT}, end="restore")
    assert result["result"] == expected


def test_a_fleet_that_began_on_two_releases_is_on_no_single_one_again():
    made = plan(two(read("v1.2.0"), read("v1.3.0")))
    result = came(two(read("v1.2.0"), read("v1.3.0")), two(RESTORED, RESTORED), {"app1": FAULT}, made, "restore")
    assert result["result"] == "unresolved"


def test_a_host_that_was_at_the_target_and_is_lost_does_not_serve_the_release_before():
    made = plan(two(read(), read("v1.2.0")))
    result = came(two(LOST, read("v1.2.0")), {"app2": RESTORED}, {"app2": FAULT}, made, "restore")
    assert result["result"] == "unresolved"


@pytest.mark.parametrize(
    ("forward", "expected", "gone"), [(True, "restored", []), (False, "unresolved", [RENAME, REACTIONS])]
)
def test_the_release_before_needs_the_database_that_it_had(forward, expected, gone):
    made = plan(rows=UNDO)
    now = two(read("v1.2.0"), read("v1.2.0"))
    marks = two(RESTORED, mark("restored", touched=False))
    result = came(now, marks, {"app1": FAULT}, made, "restore", [RENAME, REACTIONS], forward)
    assert (result["result"], result["rolled_back"], result["forward"]) == (expected, gone, forward)


def test_a_fleet_whose_database_went_down_and_up_again_was_not_left_alone():
    made = plan(rows=UNDO)
    now = two(read("v1.2.0"), read("v1.2.0"))
    marks = two(mark("failed", fault="rotation", touched=False), mark("restored", touched=False))
    assert came(now, marks, {"app1": FAULT}, made, "restore", [RENAME], True)["result"] == "restored"


def test_a_service_whose_image_is_the_same_in_both_releases_does_not_hide_which_one_serves():
    before = two(read("v1.2.0"), read("v1.2.0"))
    for reading in before.values():
        web = reading["services"]["web"]
        web["target_digest"] = web["running"]["repo_digests"][0].partition("@")[2]
    made = plan(before)
    restored = came(deepcopy(before), two(RESTORED, RESTORED), {"app1": FAULT}, made, "restore")
    assert restored["result"] == "restored"
    after = two(read(), read())
    for reading in after.values():
        reading["services"]["web"]["running"] = container("web", "v1.2.0", image_id="sha256:v1.2.0")
    assert came(after, made=made)["result"] == "reached"


# Parts


def test_a_host_whose_part_does_not_move_is_of_either_release_and_in_the_way_of_none():
    before = {"api1": read("v1.2.0", ("api",)), "web1": read("v1.2.0", ("web",))}
    made = plan(before, parts=("frontend",), runner="api1")
    now = {"api1": read("v1.2.0", ("api",)), "web1": read(services=("web",))}
    result = came(now, {"web1": DONE}, made=made)
    assert (result["result"], result["hosts"]["api1"]["serves"], result["hosts"]["api1"]["next"]) == (
        "reached",
        "either",
        "",
    )
    back = {"api1": read("v1.2.0", ("api",)), "web1": read("v1.2.0", ("web",))}
    assert came(back, {"web1": RESTORED}, {"web1": FAULT}, made, "restore")["result"] == "restored"
    assert came({"api1": LOST, "web1": now["web1"]}, {"web1": DONE}, made=made)["hosts"]["api1"]["serves"] == "either"


def test_a_part_that_does_not_move_says_nothing_on_a_host_that_carries_both():
    made = plan(parts=("application", "database"), rows=UNDO)
    now = two(read("v1.2.0", release="v1.1.0"), read("v1.2.0", release="v1.1.0"))
    assert came(now, made=made, rolled_back=[RENAME])["result"] == "reached"
    back = two(read("v1.2.0"), read("v1.2.0"))
    result = came(back, two(RESTORED, RESTORED), {"app1": FAULT}, made, "restore", [RENAME], True)
    assert result["result"] == "restored"


def test_the_database_alone_is_what_tells_the_releases_apart_where_it_goes_back_alone():
    made = plan(two(read(), read()), UNDO, parts=("database",))
    now = two(read(), read())
    assert came(now, made=made, rolled_back=[RENAME])["result"] == "reached"
    restored = came(now, two(RESTORED, RESTORED), {"app1": FAULT}, made, "restore", [RENAME], True)
    assert {entry["serves"] for entry in restored["hosts"].values()} == {"before"}
    assert restored["result"] == "restored"


def test_a_database_that_needs_nothing_is_reached_where_its_api_runs():
    made = plan(two(read(), read()), parts=("database",))
    assert came(made=made, marks={})["result"] == "reached"
    failure = [{"phase": "Verify", "message": "the host was lost"}]
    assert came(two(read(), LOST), {}, {"app2": failure}, made)["result"] == "unresolved"


# Failed


@pytest.mark.parametrize("phase", ["Plan", "Prepare", "Switch"])
def test_a_run_that_touched_no_host_failed_and_left_everything_as_it_was(phase):
    failures = {"app1": [{"phase": phase, "message": "a reason"}]}
    assert came(two(read("v1.2.0"), LOST), {}, failures, end="")["result"] == "failed"


def test_a_fleet_that_serves_two_releases_is_unresolved_though_this_run_touched_nothing():
    made = plan(two(read(), read("v1.2.0")))
    failures = {"app1": [{"phase": "Prepare", "message": "a reason"}]}
    assert came(two(read(), read("v1.2.0")), {}, failures, made, "")["result"] == "unresolved"


@pytest.mark.parametrize(
    ("phase", "second", "expected"),
    [
        ("Prepare", LOST, "failed"),
        ("Prepare", read("v1.2.0"), "failed"),
        ("Quiesce", read("v1.2.0"), "failed"),
        ("Quiesce", read(GONE), "unresolved"),
        ("Quiesce", LOST, "unresolved"),
        ("Migrate down", read("v1.2.0", state="exited"), "unresolved"),
    ],
)
def test_once_the_writers_were_stopped_the_release_before_has_to_be_seen_again(phase, second, expected):
    made = plan(rows=UNDO)
    second = deepcopy(second)
    if second and second["services"]["api"]["running"] is None:
        # Only the API's container was removed.
        second["services"]["web"]["running"] = container("web", "v1.2.0", image_id="sha256:v1.2.0")
    failures = {"app1": [{"phase": phase, "message": "a reason"}]}
    assert came(two(read("v1.2.0"), second), {}, failures, made, "")["result"] == expected


# What a host serves


@pytest.mark.parametrize(
    ("reading", "state", "rows", "expected"),
    [
        (read(), DONE, ONLINE, "target"),
        (read("v1.2.0"), PENDING, ONLINE, "before"),
        (read("v0.9.0"), DONE, ONLINE, "other"),
        (read(release="v1.2.0"), DONE, ONLINE, "other"),
        (read(GONE), LEFT_IN, ONLINE, "nothing"),
        # Stopped before the run, and never touched: that is how it was. Stopped by the run it is nothing to rely on.
        (read("v1.2.0", state="exited"), PENDING, ONLINE, "before"),
        (read("v1.2.0", state="exited"), RESTORED, ONLINE, "other"),
        (read("v1.2.0", state="exited"), PENDING, UNDO, "other"),
        (LOST, PENDING, ONLINE, "before"),
        (LOST, LEFT_IN, ONLINE, "unknown"),
        (LOST, PENDING, UNDO, "unknown"),
        (read(engine=""), DONE, ONLINE, "unknown"),
    ],
)
def test_what_a_host_serves_is_what_its_reading_shows(reading, state, rows, expected):
    result = came(two(read(), reading), two(DONE, state), made=plan(rows=rows))
    assert result["hosts"]["app2"]["serves"] == expected


def test_a_lost_host_of_a_run_that_moves_nothing_serves_nobody_knows_what():
    made = plan(two(read(), read()), parts=("database",))
    assert came(two(read(), LOST), {}, {}, made)["hosts"]["app2"]["serves"] == "unknown"


# What to type


AGAIN = "ansible-playbook rollback_full.yml -e release=v1.1.0"
CONSENT = " -e rollback_confirm_data_loss=v1.1.0"
LOGS = "ansible app1 -b -a 'docker compose --project-directory /srv/connectin logs --tail 100'"


@pytest.mark.parametrize(
    ("phase", "rolled_back", "lost", "expected"),
    [
        ("Prepare", (), False, f"nothing users see was changed; mend the cause, then: {AGAIN}{CONSENT}"),
        ("Plan", (), False, f"nothing users see was changed; mend the cause, then: {AGAIN}{CONSENT}"),
        ("Migrate down", (), False, f"mend the cause, then: {AGAIN}{CONSENT}"),
        ("Migrate down", (RENAME,), False, f"{LOGS}; then: {AGAIN}; by hand: docs/recovery.md"),
        ("Switch", (RENAME,), False, f"{LOGS}; then: {AGAIN}; by hand: docs/recovery.md"),
        ("Switch", (RENAME,), True, f"ssh to app1; when it answers: {AGAIN} -e rollback_resume=run1"),
    ],
)
def test_the_next_command_fits_the_phase_that_failed(phase, rolled_back, lost, expected):
    now = two(LOST if lost else read("v1.2.0"), read())
    failures = {"app1": [{"phase": phase, "message": "a reason"}]}
    result = came(now, two(LEFT_IN, DONE), failures, plan(rows=UNDO), rolled_back=rolled_back)
    assert result["hosts"]["app1"]["next"] == expected


def test_once_the_database_went_forward_again_the_consent_is_asked_for_again():
    now = two(read("v1.2.0"), read("v1.2.0"))
    made = plan(rows=UNDO)
    result = came(now, two(RESTORED, RESTORED), {"app1": FAULT}, made, "restore", [RENAME], True)
    assert f"{AGAIN}{CONSENT}" in result["hosts"]["app1"]["next"]


def test_a_host_that_is_out_of_rotation_without_a_reason_has_a_next_command_too():
    result = came(marks=two(DONE, mark("done", drained=True)))
    assert result["hosts"]["app2"]["next"] == f"mend the cause, then: {AGAIN}"
    assert result["hosts"]["app1"]["next"] == ""


def test_when_the_fleet_is_on_two_releases_the_hosts_on_the_older_one_have_a_next_command():
    result = came(two(read(), read("v1.2.0")), two(DONE, PENDING), {}, end="stop")
    assert (result["result"], result["hosts"]["app2"]["next"]) == ("unresolved", f"mend the cause, then: {AGAIN}")


@pytest.mark.parametrize(("others", "expected"), [("serve", "restored"), ("are alike", "unresolved")])
def test_a_host_that_no_load_balancer_says_is_back_in_rotation_is_no_proof_that_somebody_serves(others, expected):
    unsure = mark("restored", unsure=True)
    marks = two(unsure, PENDING if others == "serve" else unsure)
    result = came(two(read("v1.2.0"), read("v1.2.0")), marks, {"app1": FAULT}, end="restore")
    assert result["result"] == expected
    assert "app1" in "".join(line for line in _report.outcome_lines(result) if line.endswith("not known"))
    assert result["hosts"]["app1"]["next"]


@pytest.mark.parametrize(("second", "expected"), [(PENDING, "failed"), (mark("failed", unsure=True), "unresolved")])
def test_a_host_that_was_not_touched_may_be_out_of_rotation_when_it_could_not_be_given_back(second, expected):
    first = mark("failed", fault="rotation", touched=False, traffic=False, unsure=True)
    marks = two(first, {**second, "touched": False, "traffic": False})
    result = came(two(read("v1.2.0"), read("v1.2.0")), marks, {"app1": FAULT}, end="stop")
    assert result["result"] == expected


def test_a_host_that_was_restored_and_did_not_fail_has_nothing_to_be_typed_for():
    now = two(read("v1.2.0"), read("v1.2.0"))
    result = came(now, two(RESTORED, PENDING), {"app1": FAULT}, end="restore")
    assert [bool(entry["next"]) for entry in result["hosts"].values()] == [True, False]


@pytest.mark.parametrize(
    ("changes", "rolled_back", "expected"),
    [
        ({}, (), AGAIN + CONSENT),
        ({}, (RENAME,), AGAIN),
        ({"policy": "down"}, (RENAME,), f"{AGAIN} -e rollback_migrations=down"),
        ({"excluded": {"app3": "", "app4": ""}}, (RENAME,), f"{AGAIN} -e rollback_exclude=app3,app4"),
        ({"policy": "keep"}, (), f"{AGAIN} -e rollback_migrations=keep"),
        (
            {"again": {"rollback_switch": "start_first", "rollback_batches": ["1", "100%"]}},
            (RENAME,),
            AGAIN + """ -e rollback_switch=start_first -e '{"rollback_batches": ["1", "100%"]}'""",
        ),
        (
            {"parts": ("application", "frontend"), "policy": "keep"},
            (),
            AGAIN + """ -e '{"rollback_parts": ["application", "frontend"]}' -e rollback_migrations=keep""",
        ),
    ],
)
def test_the_same_rollback_is_typed_with_what_made_it(changes, rolled_back, expected):
    assert _outcome.again_command(plan(rows=UNDO, **changes), rolled_back) == expected


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (FULL, "rollback_full.yml"),
        (("application",), "rollback_application.yml"),
        (("database",), "rollback_database.yml"),
        (("frontend",), "rollback_frontend.yml"),
        (("application", "database"), "rollback_full.yml"),
    ],
)
def test_the_next_command_is_the_playbook_that_was_run(parts, name):
    assert _outcome.playbook(parts) == name


# What runs, how long it took, and the dumps


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (None, "not known"),
        ({"running": None}, "no container"),
        ({"running": container("api", "v1.1.0"), "health": {"status": 200}}, "v1.1.0 running 200"),
        ({"running": container("api", "v1.1.0", health="starting"), "health": None}, "v1.1.0 running starting"),
        (
            {"running": container("api", "v1.1.0", state="exited", health=""), "health": {"status": 0}},
            "v1.1.0 exited -",
        ),
        ({"running": container("api", "", image="registry.example:5000/api@sha256:a")}, " running healthy"),
    ],
)
def test_what_runs_is_told_in_three_words(service, expected):
    assert _outcome._running(service) == expected


def test_a_phase_lasts_until_the_next_one_begins():
    assert _outcome.durations(PHASES) == [{"name": "Prepare", "seconds": 12.3}, {"name": "Switch", "seconds": 2.7}]
    assert _outcome.durations([]) == _outcome.durations(PHASES[:1]) == []


def test_a_dump_is_told_with_the_host_that_has_it():
    assert came(backups=[DUMP])["backups"] == [
        {"host": "app1", "id": "run1", "kind": "full", "file": DUMP["file"], "size": 2048, "sha256": "ab" * 32}
    ]


# The headline


def line(result: dict) -> str:
    return _report.headline(result)


def test_the_headline_says_which_release_serves_where_and_who_is_out_of_rotation():
    held = came(two(read(), LOST), two(DONE, HELD), {"app2": FAULT})
    back = two(read("v1.2.0"), read("v1.2.0"))
    restored = came(back, two(RESTORED, PENDING), {"app1": FAULT}, end="restore")
    failed = came(back, {}, {"app1": [{"phase": "Prepare", "message": "a reason"}]}, end="")
    mixed = came(two(read(), read("v1.2.0")), two(DONE, PENDING), {}, end="stop")
    assert line(came()) == "Rolled back: v1.1.0 serves on app1, app2."
    assert line(held) == "HELD: v1.1.0 serves on app1, and not on every host. Out of rotation: app2."
    assert line(restored) == "NOT rolled back to v1.1.0: RESTORED, v1.2.0 serves again on app1, app2."
    assert line(failed) == "NOT rolled back to v1.1.0: no host was switched."
    assert line(mixed) == "NOT rolled back to v1.1.0: UNRESOLVED, nothing proves that one release serves everywhere."


def test_a_restored_fleet_names_the_hosts_that_are_out_of_rotation():
    result = came(two(read("v1.2.0"), LOST), two(RESTORED, HELD), {"app2": FAULT}, end="restore")
    assert line(result).endswith("v1.2.0 serves again on app1. Out of rotation: app2.")


def test_while_a_lost_host_keeps_the_lock_every_command_takes_the_same_run_up_again():
    now = {"app1": LOST, "app2": read(runs=GONE)}
    failures = {host: [{"phase": "Switch", "message": "a reason"}] for host in now}
    result = came(now, two(HELD, HELD), failures)
    assert all(entry["next"].count("-e rollback_resume=run1") == 1 for entry in result["hosts"].values())
    down = came({**now, "app1": read(engine="")}, two(HELD, HELD), failures)
    assert not any("rollback_resume" in entry["next"] for entry in down["hosts"].values()), "its lock was given back"


@pytest.mark.parametrize("result", [{}, {"unreachable": True}, {"failed": True, "lock": None}, {"skipped": True}])
def test_a_host_that_was_lost_before_it_was_locked_keeps_no_lock(result):
    failures = {"app1": [{"phase": "Prepare", "message": "a reason"}]}
    lost = came({"app1": LOST, "app2": read("v1.2.0")}, {}, failures, end="", locks={"app1": result})
    assert lost["hosts"]["app1"]["next"].endswith(f"when it answers: {AGAIN}")


@pytest.mark.parametrize(
    ("resumed", "phase", "kept"),
    [(True, "Prepare", True), (True, "Switch", False), (True, "Quiesce", False), (False, "Prepare", False)],
)
def test_a_run_that_was_taken_up_and_stops_before_its_first_change_keeps_the_lock_for_the_next_try(
    resumed, phase, kept
):
    made = {**plan(), "resumed": resumed}
    result = came(failures={"app2": [{"phase": phase, "message": "a reason"}]}, made=made)
    assert result["keeps_lock"] is kept
    assert ("-e rollback_resume=run1" in result["hosts"]["app2"]["next"]) is kept


def test_a_host_that_answers_and_whose_engine_does_not_is_told_how_to_start_that():
    down = read()
    down["engine"]["version"] = ""
    result = came(two(down, read()), two(HELD, DONE), {"app1": FAULT})
    assert result["hosts"]["app1"]["next"].startswith(
        "ansible app1 -b -a 'systemctl restart docker'; when it answers: "
    )
