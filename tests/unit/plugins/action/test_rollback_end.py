"""The end of a rollback: what is said, and the exit status of ansible-playbook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.connectin.rollback.plugins.action import rollback_end

# Where the collection was imported from: the folder that holds ansible_collections.
COLLECTIONS = next(
    parent for parent in Path(rollback_end.__file__).parents if parent.name == "ansible_collections"
).parent
PLAY = """
- hosts: app1,app2
  gather_facts: false
  connection: local
  ignore_unreachable: true
  tasks:
    - connectin.rollback.rollback_end:
        result: "{{ result }}"
        lines: [the first line, the last line]
      run_once: true
      ignore_unreachable: false
    - ansible.builtin.debug:
        msg: it went on
"""


def run(folder: Path, result: str) -> tuple[int, str]:
    """Play an end; return the exit status and everything that was printed."""
    (folder / "play.yml").write_text(PLAY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "app1,app2,", "play.yml", "-v", "-e", f"result={result}"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "true",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("result", "status"), [("reached", 0), ("held", 2), ("restored", 2), ("failed", 2), ("unresolved", 4)]
)
def test_a_target_that_was_not_reached_is_a_failure_and_an_unresolved_end_has_a_status_of_its_own(
    tmp_path, result, status
):
    code, printed = run(tmp_path, result)
    assert code == status, printed
    assert r"the first line\nthe last line" in printed
    assert "changed=1" not in printed
    assert ("it went on" in printed) is (result == "reached")


def test_a_result_that_no_run_can_have_is_refused(tmp_path):
    code, printed = run(tmp_path, "maybe")
    assert code == 2
    assert "value of result must be one of" in printed
