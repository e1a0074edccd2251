"""What the host of the default scenario runs after the rollback, as testinfra sees it over SSH."""

import json
import re

# The load balancer is in the inventory too.
testinfra_hosts = ["connectin"]

DOWN = {"20250303090000_rename_post_body", "20250304090000_create_reactions"}


def test_both_containers_run_the_targets_images(host):
    with host.sudo():
        lines = host.check_output(
            "docker ps --format '{{.Label \"com.docker.compose.service\"}} {{.Image}}'"
        ).splitlines()
    images = dict(line.split() for line in lines)
    assert images["api"].endswith("/connectin/api:v1.1.0")
    assert images["web"].endswith("/connectin/web:v1.1.0")


def test_the_api_is_healthy_and_says_its_release(host):
    answer = json.loads(host.check_output("curl -fsS http://127.0.0.1:5007/health"))
    assert answer["database"] == "connected"
    assert answer["version"] == "v1.1.0"


def test_the_page_is_the_targets_build_and_its_assets_load(host):
    page = host.check_output("curl -fsS http://127.0.0.1:3111/")
    assets = set(re.findall(r'(?:src|href)="(/_next/static/[^"]+)"', page))
    assert assets
    for asset in [*assets, "/_next/static/v1.1.0/_buildManifest.js"]:
        host.check_output(f"curl -fsS -o /dev/null http://127.0.0.1:3111{asset}")


def test_the_checkout_is_on_the_tag_without_local_changes(host):
    with host.sudo():
        assert host.check_output("git -C /srv/connectin describe --tags --exact-match") == "v1.1.0"
        assert host.check_output("git -C /srv/connectin status --porcelain --untracked-files=no") == ""


def test_record_report_and_evidence_are_kept_for_root_only(host):
    with host.sudo():
        runs = host.check_output("ls /var/lib/connectin-rollback/runs").split()
        assert len(runs) == 1
        folder = f"/var/lib/connectin-rollback/runs/{runs[0]}"
        record = json.loads(host.file(f"{folder}/record.json").content_string)
        assert record["outcome"]["result"] == "reached"
        assert set(record["outcome"]["rolled_back"]) == DOWN
        assert host.file(f"{folder}/report.md").contains("Rollback to v1.1.0: done")
        for path in (f"{folder}/record.json", f"{folder}/evidence/containers.log"):
            assert host.file(path).mode == 0o600
            assert host.file(path).user == "root"
        assert not host.file("/var/lib/connectin-rollback/lock.json").exists
