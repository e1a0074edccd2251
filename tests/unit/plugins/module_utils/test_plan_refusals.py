"""Why a rollback does not start: every reason, with the next command."""

from __future__ import annotations

import pytest
from plans import DOWN_DATABASE, codes, moved_image, plan, refused, with_git
from rollback_readings import history, stack

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
