"""The filters that the roles use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.connectin.rollback.plugins.filter import plan as filters
from rollback_readings import INIT, MIGRATIONS, POSTS, container, digest, history, image, recorded, stack

LOST = {"unreachable": True, "msg": "timed out"}
FAILED = {"failed": True, "msg": "no Python"}
FOLDER = Path(filters.__file__).parent


def options(**changes) -> dict:
    """Return the options as the role plan gives them: plain lists and dicts."""
    return {
        "release": "v1.1.0",
        "parts": ["application", "database", "frontend"],
        "policy": "auto",
        "consent": "v1.1.0",
        "components": {"app1": ["application", "frontend"]},
        "services": {"application": "api", "frontend": "web"},
        "run_id": "run1",
        "runner": "app1",
        "missing": [],
        "excluded": {},
        **changes,
    }


# Every filter


@pytest.mark.parametrize("name", sorted(filters.FilterModule().filters()))
def test_every_filter_is_documented(name):
    documented = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    assert documented["DOCUMENTATION"]["name"] == name
    assert f"connectin.rollback.{name}" in documented["EXAMPLES"]
    assert "_value" in documented["RETURN"]


def test_no_filter_is_documented_that_does_not_exist():
    assert {path.stem for path in FOLDER.glob("*.yml")} == set(filters.FilterModule().filters())


# make_plan


def test_a_plan_is_made_from_the_options_of_a_role():
    made = filters.make_plan({"app1": stack()}, history(), options())
    assert made["release"] == "v1.1.0"
    assert made["refusals"] == []


def test_hosts_that_a_limit_cuts_off_reach_the_plan():
    made = filters.make_plan({"app1": stack()}, history(), options(missing=["app2"]))
    assert [entry["code"] for entry in made["refusals"]] == ["limited"]


def test_an_unknown_policy_is_told_by_the_name_of_its_variable():
    with pytest.raises(AnsibleFilterError, match="rollback_migrations is auto, keep or down, not 'sideways'"):
        filters.make_plan({}, None, options(policy="sideways"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batches": ["half"]}, "rollback_batches has 'half'"),
        ({"min_serving": "most"}, "rollback_min_serving is a number of hosts"),
    ],
)
def test_a_setting_of_the_rollout_that_cannot_be_is_told_by_the_name_of_its_variable(changes, said):
    with pytest.raises(AnsibleFilterError, match=said):
        filters.make_plan({"app1": stack()}, history(), options(policy="keep", **changes))


# The rollout


def online(**changes) -> dict:
    """Return a plan of two hosts without a change of the database."""
    stacks = {"app1": stack(), "app2": stack()}
    components = {host: ["application", "frontend"] for host in stacks}
    return filters.make_plan(stacks, history(), options(policy="keep", components=components, **changes))


def test_a_role_walks_from_batch_to_batch_with_what_it_keeps_of_each_host():
    made = online(batches=["1", "100%"])
    first = filters.next_batch(made, {}, None)
    assert (first["number"], first["hosts"], first["end"]) == (1, ["app1"], "")
    done = {**filters.begun(made, "app1"), "status": "done", "touched": True, "traffic": True}
    second = filters.next_batch(made, {"app1": done}, first)
    assert (second["number"], second["hosts"]) == (2, ["app2"])
    assert filters.next_batch(made, {"app1": done, "app2": done}, second)["end"] == "complete"


def test_a_role_gets_the_fault_of_a_host_and_the_doubts_about_a_restored_one():
    made = online()
    sick = stack(runs="v1.1.0")
    sick["services"]["api"]["running"]["state"] = "exited"
    assert filters.fault_of(made, "app1", sick) == "target"
    assert filters.fault_of(made, "app1", {}) == "host"
    assert filters.restore_doubts(stack(), made, "app1") == []
    assert len(filters.restore_doubts(LOST, made, "app1")) == 2


# Readings


def test_a_variable_is_collected_from_the_hosts_that_have_it():
    assert filters.collect({"a": {"x": 1}, "b": {}, "c": {"x": 3}}, ["a", "b"], "x") == {"a": 1}


@pytest.mark.parametrize(
    ("stacks", "wanted", "expected"),
    [
        ({"app1": stack(), "app2": stack()}, "", "app1"),
        ({"app1": LOST, "app2": FAILED, "app3": stack()}, "", "app3"),
        ({"app1": stack()}, "bastion", "bastion"),
        ({"app1": LOST}, "", ""),
        ({}, "", ""),
        ({"app1": dict(stack(), failed=True)}, "", ""),
    ],
)
def test_the_database_is_asked_by_the_host_that_is_named_or_the_first_that_was_read(stacks, wanted, expected):
    assert filters.plan_runner(stacks, wanted) == expected


def test_the_targets_migrations_are_known_from_the_hosts_that_were_read():
    assert filters.known_migrations({"app1": LOST, "app2": stack()}, "v1.1.0") == MIGRATIONS["v1.1.0"]


def test_without_a_target_only_what_every_recorded_release_contains_is_known():
    assert filters.known_migrations({"app1": stack()}, "") == [INIT]
    second = stack()
    second["ledger"]["releases"] = [recorded("v1.1.0"), recorded("v1.2.0"), recorded("v1.5.0", migrations=None)]
    assert filters.known_migrations({"app2": second}, "") == [INIT, POSTS]


def test_without_any_record_nothing_is_known():
    reading = stack()
    reading["ledger"]["releases"] = []
    assert filters.known_migrations({"app1": reading}, "") is None


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        (
            {"app1": {"containers": {"db": ["172.18.0.2", "172.19.0.2"], "api": ["172.18.0.3"]}}},
            {"db": "172.18.0.2", "api": "172.18.0.3"},
        ),
        ({"app1": {"containers": {"db": []}}}, {}),
        ({"app1": LOST}, {}),
        ({}, {}),
    ],
)
def test_a_service_is_reached_at_the_first_address_of_its_container(stacks, expected):
    assert filters.stack_addresses(stacks, "app1") == expected


# Images


WANTED = [{"key": "api", "value": {"image": "r/api:v1"}}, {"key": "web", "value": {"image": "r/web:v1"}}]


def test_all_images_are_pulled_by_one_set_of_services():
    assert filters.image_services(WANTED) == {"api": {"image": "r/api:v1"}, "web": {"image": "r/web:v1"}}


def test_all_built_images_get_the_targets_tag():
    assert filters.image_tags(WANTED, "v1.1.0") == {"api": "v1.1.0", "web": "v1.1.0"}


# Verification


def test_a_reading_is_compared_with_the_plan():
    made = filters.make_plan({"app1": stack()}, history(), options())
    assert filters._verify_problems(stack(runs="v1.1.0"), made, "app1") == []
    assert len(filters._verify_problems(stack(), made, "app1")) == 3


# Failures


def polled(*endpoints: tuple[bool, list[str]]) -> dict:
    """Return a result of health_poll as Ansible registers it: its ``failed`` has become a boolean."""
    found = [
        {"name": "api", "host": f"app{number}", "url": "http://x/health", "ready": ready, "failures": failures}
        for number, (ready, failures) in enumerate(endpoints, 1)
    ]
    return {"failed": True, "msg": "1 of 2 endpoints were not ready", "endpoints": found}


def test_an_endpoint_that_was_not_ready_is_told_of_its_host_with_its_newest_reason():
    result = polled((True, ["connection refused"]), (False, ["connection refused", "answered 503, expected 200"]))
    assert filters.poll_failures(result) == [
        {"host": "app2", "text": "api at http://x/health: answered 503, expected 200", "answered": False}
    ]


def test_an_endpoint_that_did_not_hold_long_enough_is_told_too():
    assert filters.poll_failures(polled((False, [])))[0]["text"].endswith("it did not hold until the deadline")


@pytest.mark.parametrize("result", [{"failed": True, "msg": "no jmespath"}, {"msg": "no jmespath", "endpoints": []}])
def test_a_poll_that_failed_by_itself_is_a_failure_of_the_fleet(result):
    assert filters.poll_failures(result) == [{"host": "fleet", "text": "no jmespath", "answered": False}]


@pytest.mark.parametrize(
    ("earlier", "result", "expected"),
    [
        (None, {"msg": "disk full"}, {"phase": "Restore", "message": "disk full"}),
        (None, {}, {"phase": "Restore", "message": "the host was lost"}),
        (
            {"phase": "Switch", "message": "not healthy"},
            {"msg": "disk full"},
            {"phase": "Switch", "message": "not healthy; then in Restore: disk full"},
        ),
    ],
)
def test_what_failed_first_on_a_host_stays_first(earlier, result, expected):
    assert filters.with_failure(earlier, "Restore", result) == expected


def test_failures_are_listed_by_host_and_a_host_that_is_gone_was_lost():
    failure = {"phase": "Prepare", "message": "disk full"}
    assert filters.failures_by_host({"app1": failure}, ["app1", "app2", "app3"], ["app2"]) == {
        "app1": [failure],
        "app3": [{"phase": "Switch", "message": "the host was lost"}],
    }


def test_a_fleet_without_failures_has_none():
    assert filters.failures_by_host({}, ["app1"], ["app1"]) == {}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"msg": "one\n\n  two\nthree\nfour"}, "one | two | three"),
        ({"msg": "one", "stderr": "one\ntwo"}, "one | two"),
        ({"msg": "", "stdout": "out"}, "out"),
        ({"msg": "one", "stderr": "two", "stdout": "three"}, "one | two"),
        ({}, "the task failed without a message"),
        ({"msg": None}, "the task failed without a message"),
    ],
)
def test_a_failed_task_is_told_in_a_few_lines(result, expected):
    assert filters._first_lines(result) == expected


def test_as_many_lines_are_kept_as_are_asked_for():
    assert filters._first_lines({"msg": "a\nb\nc\nd"}, 4) == "a | b | c | d"


def test_errors_are_picked_from_a_log():
    lines = ["GET / 200", "Error: no database", "terrors", "unhandled rejection"]
    assert filters._log_errors(lines, r"(?i)\b(error|unhandled)\b") == ["Error: no database", "unhandled rejection"]


# Recording a fleet


def test_the_ledger_keeps_what_identifies_each_running_image():
    reading = stack(runs="v1.1.0")
    reading["services"]["web"]["running"] = None
    reading["services"]["web"]["build_id"] = ""
    assert filters.ledger_services(reading) == {
        "api": {
            "image": image("api", "v1.1.0"),
            "digest": digest("api", "v1.1.0"),
            "image_id": "sha256:" + "1" * 64,
            "build_id": "",
        },
        "web": {"image": "", "digest": "", "image_id": "", "build_id": ""},
    }


def test_an_image_that_was_built_has_no_digest():
    reading = stack()
    reading["services"]["api"]["running"]["repo_digests"] = []
    assert filters.ledger_services(reading)["api"]["digest"] == ""


def test_the_running_release_is_the_tag_of_all_containers():
    assert filters.running_release(stack(runs="v1.1.0")) == "v1.1.0"


@pytest.mark.parametrize("other", [container("web", "v1.0.0"), None])
def test_containers_that_differ_are_no_release(other):
    reading = stack(runs="v1.1.0")
    reading["services"]["web"]["running"] = other
    assert filters.running_release(reading) == ""


def healthy() -> dict:
    return stack(runs="v1.1.0", target="")


def test_a_fleet_that_runs_one_release_well_can_be_recorded():
    stacks = {"app1": healthy(), "app2": healthy()}
    assert filters.adoption_doubts(stacks, "", "good") == []
    assert filters.adoption_doubts(stacks, "v1.1.0", "good") == []
    # One that only runs the database's part runs no release.
    assert filters.adoption_doubts({**stacks, "db1": {**healthy(), "services": {}}}, "", "good") == []


def with_service(**changes) -> dict:
    reading = healthy()
    reading["services"]["api"].update(changes)
    return reading


REFUSED = dict(healthy(), refusals=[{"code": "local_changes", "message": "local changes in a.txt", "next": "git diff"}])


@pytest.mark.parametrize(
    ("reading", "release", "expected"),
    [
        (LOST, "", "  app2: it could not be read"),
        (FAILED, "", "  app2: it could not be read"),
        (REFUSED, "", "  app2: local changes in a.txt; next: git diff"),
        (with_service(running=container("api", "v1.1.0", state="exited")), "", "  app2: api does not run (exited)"),
        (with_service(running=None), "v1.1.0", "  app2: api does not run (no container)"),
        (
            with_service(health={"status": 503}),
            "",
            "  app2: api answers 503; next: -e rollback_verdict=bad, or mend it",
        ),
        (with_service(health=None), "", "  app2: api answers nothing; next: -e rollback_verdict=bad, or mend it"),
        (stack(runs="v1.0.0"), "v1.1.0", "  app2: its containers run v1.0.0, not v1.1.0"),
        (
            with_service(running=container("api", "v1.0.0")),
            "",
            "  app2: its containers run different tags; next: -e release=<release>",
        ),
        (stack(runs="v1.0.0"), "", "  the hosts run different releases: app1 v1.1.0, app2 v1.0.0"),
    ],
)
def test_what_speaks_against_recording_the_fleet_is_told_by_host(reading, release, expected):
    assert expected in filters.adoption_doubts({"app1": healthy(), "app2": reading}, release, "good")


@pytest.mark.parametrize("verdict", ["bad", "unknown"])
def test_a_release_that_is_not_called_good_need_not_answer(verdict):
    assert filters.adoption_doubts({"app1": with_service(health={"status": 503})}, "", verdict) == []


@pytest.mark.parametrize(
    ("host", "image_folder", "more"),
    [("app1", "/app/m", True), ("app1", "", False), ("bastion", "/app/m", False)],
)
def test_migrations_are_read_from_the_image_too_where_that_is_wanted_and_one_runs(host, image_folder, more):
    stacks = {"app1": stack(), "bastion": {"unreachable": True}}
    image = stacks["app1"]["services"]["api"]["running"]["image_id"]
    sources = filters.migration_sources(stacks, host, "api", "/srv/m", image_folder)
    assert sources == ["/srv/m", *([f"image:{image}:/app/m"] if more else [])]


@pytest.mark.parametrize("services", [None, {}, {"api": None}, {"api": {"running": None}}])
def test_without_a_running_container_the_checkout_is_the_only_source(services):
    assert filters.migration_sources({"app1": {"services": services}}, "app1", "api", "/srv/m", "/app/m") == ["/srv/m"]
