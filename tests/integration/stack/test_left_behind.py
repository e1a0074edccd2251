"""What a rollback leaves behind for the ones after it: the freeze of deploys, locks, and images that stay."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

from fleet import CHECKOUT
from test_refusals import LOCK
from test_rollbacks import LEDGER

FILE = "/var/lib/connectin-rollback/lock.json"


def documented(line: str) -> list[str]:
    """Return the command of docs/rollout.md that begins like this, as words."""
    page = (CHECKOUT / "docs/rollout.md").read_text()
    (command,) = re.findall(rf"^({re.escape(line)})(?: +#.*)?$", page, re.MULTILINE)
    return command.split()


def ledger_kinds(fleet, host: str) -> list[str]:
    return [json.loads(line)["kind"] for line in fleet.shell(host, f"cat {LEDGER}").splitlines()]


def test_after_a_rollback_deploys_are_frozen_until_somebody_lifts_that(fleet, at):
    at("v1.1.0")
    ask = documented("ansible-playbook deploy_freeze.yml")
    lift = documented("ansible-playbook deploy_freeze.yml -e rollback_freeze=lift")
    assert fleet.run(ask).rc == 0
    assert fleet.play("rollback_full.yml", release="v1.0.0", rollback_reason="it is slow").rc == 0
    frozen = fleet.run(ask)
    assert frozen.rc != 0
    assert re.search(r"app1 +v1\.0\.0 .*it is slow", frozen.text), frozen.text
    further = fleet.play("rollback_plan.yml", release="previous")
    assert further.rc != 0 and "[frozen]" in further.text, further.text
    assert fleet.play("rollback_plan.yml", release="v1.0.0").rc == 0
    assert fleet.run([*lift, "--check"]).rc == 0
    assert fleet.run(ask).rc != 0, "a check changes nothing"
    assert fleet.run(lift).rc == 0
    assert fleet.run(ask).rc == 0
    for host in fleet.hosts:
        assert ledger_kinds(fleet, host)[-1] == "thaw"
    again = fleet.run(lift)
    assert (again.rc, again.changed()) == (0, 0), again.text


def test_a_lock_is_shown_and_broken_by_the_run_that_holds_it_and_that_is_recorded(fleet, at):
    at("v1.1.0")
    show = documented("ansible-playbook lock.yml")
    run_id = json.loads(LOCK)["run_id"]
    assert "No host is locked." in fleet.run(show).text
    fleet.shell("app2", f"echo '{LOCK}' > {FILE}")
    shown = fleet.run(show)
    assert (shown.rc, shown.changed()) == (0, 0)
    assert re.search(rf"app2 +{run_id} +ann", shown.text), shown.text
    other = fleet.play("lock.yml", rollback_lock_break="another")
    assert other.rc != 0 and "No host is locked by the run another" in other.text
    (command,) = set(re.findall(r"ansible-playbook lock\.yml -e rollback_lock_break=\S+", shown.text))
    assert fleet.run([*command.split(), "--check"]).rc == 0
    assert run_id in fleet.shell("app2", f"cat {FILE}"), "a check changes nothing"
    assert fleet.run(command.split()).rc == 0
    assert fleet.on("app2", "ls", FILE, check=False) == ""
    broken = json.loads(fleet.shell("app2", f"tail -n 1 {LEDGER}"))
    assert (broken["kind"], broken["run_id"]) == ("lock_broken", run_id)
    assert "lock_broken" not in ledger_kinds(fleet, "app1")


def test_a_lock_that_cannot_be_read_is_broken_by_the_command_of_the_refusal(fleet, at):
    at("v1.1.0")
    fleet.shell("app2", f"echo nonsense > {FILE}")
    refused = fleet.play("rollback_plan.yml", release="v1.0.0")
    assert refused.rc != 0 and "[lock_held]" in refused.text
    (command,) = set(re.findall(r"ansible-playbook lock\.yml -e rollback_lock_break=\S+", refused.text))
    assert fleet.run(command.split()).rc == 0
    assert fleet.play("rollback_plan.yml", release="v1.0.0").rc == 0


def test_images_of_releases_one_can_go_back_to_survive_a_prune(fleet, at):
    at("v1.1.0")
    assert fleet.play("record_release.yml").rc == 0
    fleet.shell("app2", "docker image prune -af")
    kept = fleet.shell("app2", "docker images --format '{{.Repository}}:{{.Tag}}'")
    for service in ("api", "web"):
        assert f"connectin/{service}:v1.0.0" in kept, kept
        assert f"connectin/{service}:v1.2.0" not in kept, "a bad release is no target"
    plan = fleet.play("rollback_plan.yml", release="v1.0.0")
    assert re.search(r"app2 +api .*here", plan.text), plan.text


def test_a_plan_that_was_approved_is_kept_to(fleet, at):
    at("v1.1.0")
    (digest,) = set(
        re.findall(r"^ +plan ([0-9a-f]{16})$", fleet.play("rollback_plan.yml", release="v1.0.0").text, re.M)
    )
    # What serves no more is no other plan; another commit under the tag is.
    fleet.shell("app2", "cd /srv/connectin; docker compose stop web")
    assert fleet.play("rollback_plan.yml", release="v1.0.0", rollback_plan_digest=digest).rc == 0
    with moved_tag(fleet, "app2"):
        other = fleet.play("rollback_full.yml", release="v1.0.0", rollback_plan_digest=digest)
    assert other.rc != 0 and "[plan_changed]" in other.text, other.text


@contextlib.contextmanager
def moved_tag(fleet, host: str) -> Iterator[None]:
    """Somebody has the target's tag name another commit on one host."""
    git = "git -C /srv/connectin"
    fleet.shell(host, f"{git} tag --force v1.0.0 v1.1.0^{{}}")
    try:
        yield
    finally:
        fleet.shell(host, f"runuser -u deploy -- {git} fetch --quiet --tags --force origin")


def test_a_world_that_moves_while_the_run_is_prepared_stops_it_before_anything_is_switched(fleet, at):
    at("v1.1.0")
    before = {host: fleet.shell(host, "docker ps --no-trunc --quiet | sort") for host in fleet.hosts}
    with contextlib.ExitStack() as moved:
        run = fleet.play_until(
            "] Prepare", lambda: moved.enter_context(moved_tag(fleet, "app2")), "rollback_full.yml", release="v1.0.0"
        )
        assert run.rc == 2, run.text
        assert "changed while the rollback was being prepared; nothing users see was changed" in run.text, run.text
        assert "no host was switched" in run.text
        assert {host: fleet.shell(host, "docker ps --no-trunc --quiet | sort") for host in fleet.hosts} == before
        for host in fleet.hosts:
            assert "lock.json" not in fleet.shell(host, "ls /var/lib/connectin-rollback")
    assert fleet.play("rollback_full.yml", release="v1.0.0").rc == 0
