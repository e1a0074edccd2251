"""What each host of the fleet runs after the rollback, as testinfra sees it over SSH."""

import json

import pytest

# The load balancer is in the inventory too.
testinfra_hosts = ["connectin"]


@pytest.mark.parametrize("service", ["api", "web"])
def test_one_container_of_the_target_runs(host, service):
    with host.sudo():
        listed = host.check_output(
            f"docker ps --all --filter label=com.docker.compose.service={service}"
            " --format '{{.Image}} {{.State}}'"
        )
    image, state = listed.split()
    assert image.endswith(f"/connectin/{service}:v1.0.0")
    assert state == "running"


def test_the_api_is_healthy_and_says_its_release(host):
    answer = json.loads(host.check_output("curl -fsS http://127.0.0.1:5007/health"))
    assert (answer["database"], answer["version"]) == ("connected", "v1.0.0")


def test_the_checkout_is_on_the_tag_without_local_changes(host):
    with host.sudo():
        assert host.check_output("git -C /srv/connectin describe --tags --exact-match") == "v1.0.0"
        assert host.check_output("git -C /srv/connectin status --porcelain --untracked-files=no") == ""


def test_the_target_is_in_the_ledger_deploys_are_frozen_and_no_lock_is_left(host):
    with host.sudo():
        ledger = host.file("/var/lib/connectin-rollback/ledger.jsonl").content_string
        assert not host.file("/var/lib/connectin-rollback/lock.json").exists
    entries = [json.loads(line) for line in ledger.splitlines()]
    releases = [entry["release"] for entry in entries if entry["kind"] == "release"]
    assert releases[-1] == "v1.0.0"
    assert "freeze" in [entry["kind"] for entry in entries], entries
