"""A load balancer that this collection does not know: asked by a command, and by tasks of one's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from faults import asking_balancer
from load import Load
from one_release import BACKENDS, answers, assert_one_release_serves

# As an operator would have it: does what it says, and fails unless the load balancer confirms.
BALANCE = """#!{python}
import subprocess, sys, time

state, host = sys.argv[1:]


def ask(text):
    return subprocess.run([*{ask}, text], check=True, capture_output=True, text=True).stdout


ask("; ".join(f"set server {{backend}}/{{host}} state {{state}}" for backend in {backends}))
for _ in range(300):
    rows = [row.split(",") for row in ask("show stat").splitlines()]
    servers = [dict(zip(rows[0], row)) for row in rows if row[1:2] == [host]]
    if state == "drain" and not any(int(server["scur"]) for server in servers):
        sys.exit()
    if state == "ready" and all(server["status"] == "UP" for server in servers):
        sys.exit()
    time.sleep(0.1)
sys.exit(f"{{host}} is not {{state}}")
"""
BATCHES = ["canary", "50%", "100%"]
OWN_TASKS = """---
- name: Give the host back
  ansible.builtin.command:
    argv: [{balance}, ready, "{{{{ rollback_rotation_host }}}}"]
  changed_when: true
  delegate_to: localhost
  become: false
"""


def script(fleet, folder: Path) -> Path:
    """The command of the operator."""
    balance = folder / "balance"
    balance.write_text(BALANCE.format(python=sys.executable, ask=asking_balancer(fleet), backends=BACKENDS))
    balance.chmod(0o755)
    return balance


@pytest.mark.long
def test_a_command_drains_and_tasks_of_ones_own_undrain_and_no_request_is_lost(fleet, at, tmp_path):
    at("v1.1.0")
    balance, own = script(fleet, tmp_path), tmp_path / "undrain.yml"
    own.write_text(OWN_TASKS.format(balance=balance))
    balancer = fleet.state["load_balancer"]
    api, web = (f"http://{balancer['host']}:{balancer[part]}" for part in ("api", "web"))

    with Load(api, web, rate=40, workers=12) as load:
        run = fleet.play(
            "rollback_full.yml",
            release="v1.0.0",
            rollback_batches=BATCHES,
            rollback_drain_tasks="command",
            rollback_drain_command=[str(balance), "drain", "{{ rollback_rotation_host }}"],
            rollback_undrain_tasks=str(own),
        )
        load.wait_for(80)

    assert_one_release_serves(fleet, "v1.0.0", run, "reached", schema="v1.1.0", target="v1.0.0")
    assert load.result.failed == 0 and load.result.total > 400, "\n".join(load.result.lines())


@pytest.mark.long
def test_where_the_command_does_not_confirm_no_host_is_touched(fleet, at):
    at("v1.1.0")
    run = fleet.play(
        "rollback_full.yml",
        release="v1.0.0",
        rollback_drain_tasks="command",
        rollback_drain_command=["sh", "-c", "echo the balancer says no >&2; exit 7"],
        rollback_undrain_tasks="command",
        rollback_undrain_command=["true"],
    )
    assert "the balancer says no" in run.text, run.text
    assert_one_release_serves(fleet, "v1.1.0", run, "failed", schema="v1.1.0", target="v1.0.0")


@pytest.mark.long
def test_a_host_that_is_not_given_back_is_held_and_after_a_second_one_the_fleet_goes_back(fleet, at, tmp_path):
    at("v1.1.0")
    balance = script(fleet, tmp_path)
    given_back = {
        "release": "v1.0.0",
        "rollback_batches": BATCHES,
        "rollback_undrain_tasks": "command",
        "rollback_undrain_command": [
            "sh",
            "-c",
            f"test {{{{ rollback_rotation_host }}}} != app1 && {balance} ready {{{{ rollback_rotation_host }}}}",
        ],
    }
    run = fleet.play("rollback_full.yml", **given_back)
    assert "batch 2 (canary): app2" in run.text, run.text
    assert_one_release_serves(fleet, "v1.0.0", run, "held", held=["app1"], schema="v1.1.0", target="v1.0.0")

    at("v1.1.0")
    never = {**given_back, "rollback_undrain_command": ["sh", "-c", "echo the balancer says no >&2; exit 7"]}
    run = fleet.play("rollback_full.yml", **never)
    # Nobody says that app1 and app2 are back in rotation; app3 serves, and was never touched.
    assert run.rc == 2 and "RESTORED, v1.1.0 serves again on app3." in run.text, run.text
    assert "batch 3" not in run.text
    for host in ("app1", "app2"):
        assert re.search(rf"^ +{host} +.* not known *$", run.text, re.MULTILINE), run.text
    health, pages = answers(fleet)
    assert set(health) == set(pages) == {(200, "v1.1.0")}
