"""What an operator sees of a run: short lines, and messages as text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[4]

PLAYBOOK = """\
- name: First phase
  hosts: all
  gather_facts: false
  tasks:
    - name: Quiet task
      ansible.builtin.set_fact:
        seen: true
    - name: Skipped task
      ansible.builtin.debug:
        msg: never seen
      when: false
    - name: Message of several lines
      ansible.builtin.debug:
        msg: [a table, "  of two lines"]
      run_once: true
    - name: Message in one string
      ansible.builtin.debug:
        msg: "line one\\nline two"
      run_once: true
    - name: Messages of a loop
      ansible.builtin.debug:
        msg: "item {{ item }}"
      loop: [1, 2]
      run_once: true
    - name: Variable
      ansible.builtin.debug:
        var: seen
      run_once: true
- name: Idle phase
  hosts: all
  gather_facts: false
  tasks:
    - name: Note
      ansible.builtin.set_fact:
        noted: true
- name: Second phase
  hosts: all
  gather_facts: false
  tasks:
    - name: Failing task
      block:
        - name: Doomed command
          ansible.builtin.command:
            argv: [sh, -c, "echo reason one >&2; echo reason two >&2; yes more | head -100 >&2; exit 3"]
      rescue:
        - name: Go on
          ansible.builtin.set_fact:
            seen: false
    - name: Refuse a variable
      block:
        - name: Check a variable
          ansible.builtin.validate_argument_spec:
            argument_spec: {level: {type: int}}
            provided_arguments: {level: high}
      rescue:
        - name: Go on again
          ansible.builtin.set_fact:
            seen: false
    - name: Refuse
      ansible.builtin.fail:
        msg: "Refused. 2 reasons:\\n  app1: disk full\\n      next: docker system df"
"""


def run(
    folder: Path, *arguments: str, playbook: str = PLAYBOOK, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the playbook with the callback on two local hosts."""
    (folder / "play.yml").write_text(playbook, encoding="utf-8")
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nstdout_callback = connectin.rollback.brief\ncollections_path = {CHECKOUT / 'collections'}\n"
        "localhost_warning = False\ninterpreter_python = auto_silent\n",
        encoding="utf-8",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            "app1,app2,",
            "-c",
            "local",
            # the one that surely works: discovery may find a stub of a version manager
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            *arguments,
            "play.yml",
        ],
        cwd=folder,
        env={**inherited, "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def brief(tmp_path_factory) -> subprocess.CompletedProcess[str]:
    return run(tmp_path_factory.mktemp("brief"))


@pytest.fixture(scope="module")
def lines(brief) -> list[str]:
    return brief.stdout.splitlines()


def test_a_run_that_failed_says_so_in_its_status(brief):
    assert brief.returncode == 2, brief.stderr


def test_every_phase_is_one_line_with_the_time_since_the_start(lines):
    phases = [line for line in lines if line.startswith("[")]
    assert [re.fullmatch(r"\[ *\d+\.\d s\] (.+)", line)[1] for line in phases] == ["First phase", "Second phase"]


def test_a_phase_that_does_nothing_is_not_mentioned(lines):
    assert not any("Idle phase" in line for line in lines)


def test_tasks_that_went_well_or_were_skipped_are_not_shown(lines):
    text = "\n".join(lines)
    for unseen in ("Quiet task", "Skipped task", "never seen", "Go on", "TASK", "PLAY", "ok:", "skipping"):
        assert unseen not in text


@pytest.mark.parametrize(
    "message",
    [
        ["a table", "  of two lines"],
        ["line one", "line two"],
        ["item 1", "item 2"],
        ["Refused. 2 reasons:", "  app1: disk full", "      next: docker system df"],
    ],
)
def test_a_message_is_printed_as_plain_lines(lines, message):
    shown = [f"           {line}" for line in message]
    position = lines.index(shown[0])
    assert lines[position : position + len(shown)] == shown


def test_a_refusal_of_all_hosts_is_said_once(lines):
    assert sum("Refused. 2 reasons:" in line for line in lines) == 1


def test_a_variable_of_the_wrong_type_is_said_once_and_without_the_name_of_a_check(lines):
    position = lines.index("           Validation of arguments failed:")
    assert "level" in lines[position + 1]
    assert sum("Validation of arguments" in line for line in lines) == 1


def test_a_variable_is_shown_under_its_name(lines):
    assert any('"seen": true' in line for line in lines)
    assert not any(line.strip() == "None" for line in lines)


@pytest.mark.parametrize("host", ["app1", "app2"])
def test_a_task_that_failed_names_host_and_task_and_what_the_command_wrote(lines, host):
    position = lines.index(f"           {host}: Doomed command:")
    told = [line.strip() for line in lines[position + 1 : position + 4]]
    assert "non-zero return code" in told[0]
    assert told[1:] == ["reason one", "reason two"]


def test_no_more_is_shown_of_what_a_command_wrote_than_fits_on_a_screen(lines):
    assert sum(line.strip() == "more" for line in lines) == 2 * 8


def test_the_end_counts_each_host(lines):
    assert [line.split() for line in lines[-2:]] == [
        ["app1", "ok=8", "changed=0", "unreachable=0", "failures=1", "rescued=2"],
        ["app2", "ok=4", "changed=0", "unreachable=0", "failures=1", "rescued=2"],
    ]


def test_the_whole_run_is_short(lines):
    assert len(lines) < 45


def test_verbose_output_is_ansibles_own(tmp_path):
    text = run(tmp_path, "-v").stdout
    assert "TASK [Quiet task]" in text
    assert "PLAY RECAP" in text
    assert "skipping: [app1]" in text


OFTEN = """\
from ansible_collections.connectin.rollback.plugins.callback import brief

DOCUMENTATION = brief.DOCUMENTATION.replace("name: brief", "name: often")
brief.POLL_SECONDS = 1


class CallbackModule(brief.CallbackModule):
    CALLBACK_NAME = "often"
"""
LONG = """\
- name: Phase
  hosts: all
  gather_facts: false
  tasks:
    - name: Dump it all
      ansible.builtin.command: sleep 8
      async: 60
      poll: 1
"""


def test_a_task_that_runs_by_itself_is_spoken_of_by_its_name_now_and_then(tmp_path):
    (tmp_path / "often.py").write_text(OFTEN)
    often = {"ANSIBLE_STDOUT_CALLBACK": "often", "ANSIBLE_CALLBACK_PLUGINS": str(tmp_path)}
    text = run(tmp_path, playbook=LONG, **often).stdout
    assert len(re.findall(r"^ +app1: Dump it all: \d s$", text, re.MULTILINE)) >= 2, text
    assert "ASYNC" not in text
