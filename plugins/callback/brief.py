# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = """
    name: brief
    type: stdout
    short_description: One line a phase, messages as text
    version_added: 0.1.0
    description:
      - Prints one line for each play with the time since the start, messages of C(debug) as text, and every failure.
      - With C(-v) or more it is Ansible's default output.
    extends_documentation_fragment:
      - default_callback
      - result_format_callback
    requirements:
      - set as C(stdout_callback = connectin.rollback.brief) in configuration
"""

import time

from ansible.plugins.callback.default import CallbackModule as Default

# What a failed module says is told again, whole, in the outcome or at -v.
MESSAGE_LINES = 3
# Seconds between two words about a task that runs by itself.
POLL_SECONDS = 15

# Actions that neither touch a host nor take time.
CONTROLLER_ONLY = frozenset(
    ["assert", "debug", "fail", "import_role", "import_tasks", "include_role", "include_tasks", "meta", "set_fact"]
    + ["validate_argument_spec", "rollback_end"]
)

# How much of what a failed command wrote is shown; all of it is there with -v.
LINES = 10


class CallbackModule(Default):
    """Ansible's default output at ``-v``; without it only what an operator under stress wants to read."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "connectin.rollback.brief"

    def __init__(self):
        super().__init__()
        self._began = time.monotonic()
        self._said = None
        self._waiting = ""
        # A look at a task that runs by itself bears the name of the look.
        self._task_name = ""
        # When each task that runs by itself was first seen, and when that was last said.
        self._jobs = {}

    def _quiet(self) -> bool:
        return self._display.verbosity == 0

    def v2_playbook_on_play_start(self, play):
        if not self._quiet():
            return super().v2_playbook_on_play_start(play)
        self._play = play
        self._waiting = play.get_name().strip()

    def v2_runner_on_start(self, host, task):
        # A phase that has nothing to do starts no module, and is not mentioned.
        if self._quiet() and task.action.rpartition(".")[2] not in CONTROLLER_ONLY:
            self._announce()

    def _announce(self):
        if self._waiting:
            self._display.display(f"[{time.monotonic() - self._began:6.1f} s] {self._waiting}")
            self._waiting = ""

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._task_name = task.get_name().strip()
        if not self._quiet():
            super().v2_playbook_on_task_start(task, is_conditional)

    def _print_task_banner(self, task):
        if not self._quiet():
            super()._print_task_banner(task)

    def v2_playbook_on_include(self, included_file):
        if not self._quiet():
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_ok(self, result):
        if not self._quiet():
            return super().v2_runner_on_ok(result)
        self._handle_warnings(result.result)
        if result.task.action.rpartition(".")[2] in ("debug", "rollback_end") and "results" not in result.result:
            self._say(result)

    def v2_runner_item_on_ok(self, result):
        if not self._quiet():
            return super().v2_runner_item_on_ok(result)
        if result.task.action.rpartition(".")[2] == "debug":
            self._say(result)

    def v2_runner_on_skipped(self, result):
        if not self._quiet():
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result):
        if not self._quiet():
            super().v2_runner_item_on_skipped(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if not self._quiet():
            return super().v2_runner_on_failed(result, ignore_errors)
        self._handle_warnings(result.result)
        action = result.task.action.rpartition(".")[2]
        message = result.result.get("msg") or "failed"
        if action in ("fail", "assert", "validate_argument_spec", "rollback_end"):
            # A refusal, an outcome or a variable that cannot be: its text is the message, said once for all hosts.
            if message != self._said:
                self._text(message, color="red")
                self._said = message
        else:
            # A command's message is only that it failed; why is what it wrote.
            said = str(result.result.get("stderr") or result.result.get("module_stderr") or "").splitlines()[:LINES]
            lines = [line for line in str(message).splitlines() if line.strip()][:MESSAGE_LINES]
            self._text([f"{result.host.get_name()}: {result.task.get_name()}:", *lines], color="red")
            self._text(said, color="red")

    def v2_runner_on_unreachable(self, result):
        if not self._quiet():
            return super().v2_runner_on_unreachable(result)
        if result.task.action.rpartition(".")[2] == "rollback_end":
            return self._text(result.result["msg"], color="red")
        self._text(f"{result.host.get_name()}: unreachable: {result.result.get('msg')}", color="bright red")

    def v2_runner_on_async_poll(self, result):
        if not self._quiet():
            return super().v2_runner_on_async_poll(result)
        # What takes long is not silent for long.
        job = result.result.get("ansible_job_id")
        now = time.monotonic()
        began, said = self._jobs.setdefault(job, (now, now))
        if now - said >= POLL_SECONDS:
            self._text(f"{result.host.get_name()}: {self._task_name}: {now - began:.0f} s")
            self._jobs[job] = (began, now)

    def v2_runner_on_async_ok(self, result):
        if not self._quiet():
            super().v2_runner_on_async_ok(result)

    def v2_runner_on_async_failed(self, result):
        if not self._quiet():
            super().v2_runner_on_async_failed(result)

    def v2_runner_retry(self, result):
        if not self._quiet():
            super().v2_runner_retry(result)

    def v2_playbook_on_stats(self, stats):
        if not self._quiet():
            return super().v2_playbook_on_stats(stats)
        for host in sorted(stats.processed):
            summary = stats.summarize(host)
            self._display.display(
                "  ".join(
                    [
                        f"{host:<12}",
                        *(f"{key}={summary[key]}" for key in ("ok", "changed", "unreachable", "failures", "rescued")),
                    ]
                )
            )

    def _say(self, result):
        if "msg" in result.result:
            self._text(result.result["msg"])
        else:
            # `debug` with `var`: its result is the variable, under its own name
            self._text(self._dump_results(result.result, indent=2))

    def _text(self, message, color=None):
        self._announce()
        lines = message if isinstance(message, list) else str(message).splitlines()
        for line in lines:
            self._display.display(f"           {line}".rstrip(), color=color)
