#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback_end
short_description: End a rollback with the exit status of its result
version_added: 0.1.0
description:
  - Prints what came of a rollback, and ends the run so that C(ansible-playbook) says by its exit status which end it
    was.
  - The status is 0 when the target was reached and 2 when one release serves that is not the target everywhere. It is
    4, the status of a host that could not be reached, when nothing proves that one release serves.
author: ConnectIn operations (@connectin)
options:
  result:
    description:
      - How it ended, as P(connectin.rollback.outcome#filter) says.
    type: str
    choices: [reached, held, restored, failed, unresolved]
    required: true
  lines:
    description:
      - What the operator reads.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Can run in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: End the run
  connectin.rollback.rollback_end:
    result: "{{ rollback_outcome.result }}"
    lines: "{{ rollback_outcome | connectin.rollback.outcome_lines }}"
  run_once: true
"""

RETURN = r"""
msg:
  description: The lines as one text.
  returned: always
  type: str
  sample: "Rolled back: v1.4.2 serves on app1, app2."
"""
