# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = """
    name: task_costs
    type: aggregate
    short_description: What each task cost, and on which hosts it started a module
    description:
      - Writes, as JSON, one entry for each task with the wall time until the next task began, the processor time of the
        controller's main process and of its workers, and how often it started a module for each host.
      - A delegated task counts for the host in whose name it runs; each item of a loop, each retry, each poll counts.
    options:
      path:
        description: The file that is written.
        env: [{name: BENCH_TASK_COSTS}]
        type: path
        required: true
"""

import json
import resource
import time

from ansible.plugins.callback import CallbackBase

# Actions that end on the controller: no module is started for them anywhere.
CONTROLLER_ONLY = frozenset(
    ["add_host", "assert", "debug", "fail", "group_by", "import_playbook", "import_role", "import_tasks"]
    + ["include_role", "include_tasks", "include_vars", "meta", "pause", "rollback_end", "set_fact", "set_stats"]
    + ["validate_argument_spec"]
)


def cpu(who):
    """Return the seconds of processor time, user and system."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class CallbackModule(CallbackBase):
    """One entry a task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_costs"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self._tasks = []
        self._play = ""
        self._mark = None
        self._began = {}
        self._now()

    def _now(self):
        """Close the entry that is open with what has been spent since it began."""
        mark = (time.monotonic(), cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN))
        if self._mark and self._tasks:
            for key, before, after in zip(("wall", "main", "workers"), self._mark, mark):
                self._tasks[-1][key] = after - before
        self._mark = mark

    def _open(self, name, action, role):
        self._now()
        self._tasks.append({"play": self._play, "role": role, "name": name, "action": action, "seen": 0, "started": {}})

    def v2_playbook_on_play_start(self, play):
        self._play = play.get_name().strip()
        self._open("(the play begins)", "", "")

    def v2_playbook_on_task_start(self, task, is_conditional):
        if task.action.rpartition(".")[2] == "meta":
            # begins once for each host, and costs nothing
            return
        role = task._role.get_name() if task._role else ""
        self._open(task.get_name().strip(), task.action.rpartition(".")[2], role)

    def v2_playbook_on_handler_task_start(self, task):
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats):
        self._now()
        summary = {host: stats.summarize(host) for host in stats.processed}
        with open(self.get_option("path"), "w", encoding="utf-8") as stream:
            json.dump({"tasks": self._tasks, "stats": summary, "main": cpu(resource.RUSAGE_SELF)}, stream)

    def _count(self, result, looped=False):
        entry = self._tasks[-1]
        entry["seen"] += 1
        # The items of a loop are counted one by one.
        whole = looped or "results" not in result.result
        if whole and result.task.action.rpartition(".")[2] not in CONTROLLER_ONLY:
            host = result.host.get_name()
            entry["started"][host] = entry["started"].get(host, 0) + 1

    def v2_runner_on_ok(self, result):
        self._count(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._count(result)

    def v2_runner_on_unreachable(self, result):
        self._count(result)

    def v2_runner_on_skipped(self, result):
        self._tasks[-1]["seen"] += 1

    def v2_runner_item_on_ok(self, result):
        self._count(result, looped=True)

    def v2_runner_item_on_failed(self, result):
        self._count(result, looped=True)

    def v2_runner_retry(self, result):
        self._count(result, looped=True)

    def v2_runner_on_async_poll(self, result):
        self._count(result, looped=True)
