# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

REACHED, UNRESOLVED = "reached", "unresolved"


class ActionModule(ActionBase):
    """Ends a rollback: succeeds when the target was reached, else fails; an unresolved end has the exit status 4."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "result": {
                    "type": "str",
                    "required": True,
                    "choices": ["reached", "held", "restored", "failed", "unresolved"],
                },
                "lines": {"type": "list", "elements": "str", "required": True},
            }
        )
        # Shown without -v by Ansible's own output too.
        said = {"changed": False, "msg": "\n".join(args["lines"]), "_ansible_verbose_always": True}
        if args["result"] == REACHED:
            return said
        # ansible-playbook ends with 2 after a failure and with 4 after a host that could not be reached: a task can ask
        # for no third status.
        return {**said, "unreachable": True} if args["result"] == UNRESOLVED else {**said, "failed": True}
