#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback_lock
short_description: Make sure that only one rollback run changes a host
version_added: 0.1.0
description:
  - Takes, renews, gives back or breaks the lock of a host. The lock says who holds it, since when, why, for which run
    and until when.
  - The same run can take it again, so a run that died is continued rather than waited for.
  - The lease is judged by the clock of the host that keeps the lock, so the clocks of controllers do not matter.
author: ConnectIn operations (@connectin)
options:
  state:
    description:
      - V(present) takes the lock for O(run_id), or renews the lease if that run has it. It fails while the lease of
        another run lasts, and takes the lock over once it is over.
      - V(absent) gives the lock of O(run_id) back. The lock of another run stays.
      - V(broken) removes the lock, whoever holds it, and enters in the ledger of the host who did so and why.
    type: str
    choices: [present, absent, broken]
    default: present
  state_dir:
    description:
      - The directory for the lock, on the host. It is made with mode V(0700) where it is missing.
    type: path
    default: /var/lib/connectin-rollback
  run_id:
    description:
      - The run. Required with O(state=present) and O(state=absent).
      - With O(state=broken) only the lock of this run is broken, and that of another one is a failure, so that a lock
        that somebody took meanwhile stays. V(unreadable) stands for a lock that cannot be read. Without a run any lock
        is broken.
    type: str
  owner:
    description:
      - Who runs it, with O(state=broken) who breaks it. By default the user who is logged in on the host, behind
        C(sudo) the one who called it.
    type: str
  reason:
    description:
      - Why, for whoever finds the host locked, or reads in the ledger that a lock was broken.
    type: str
  lease:
    description:
      - For how many seconds the lock is held unless it is renewed. Give it more than the longest phase of a run takes,
        since another run may take over as soon as it is over.
    type: int
    default: 7200
attributes:
  check_mode:
    description: Can run in check mode and tells what would become of the lock, and fails where it is held.
    support: full
  diff_mode:
    description: Shows the lock before and after.
    support: full
seealso:
  - module: connectin.rollback.stack_info
  - module: connectin.rollback.release_ledger
"""

EXAMPLES = r"""
- name: Take the lock, or take it again after the controller died
  connectin.rollback.rollback_lock:
    run_id: 20260504T030201Z-7c1e
    owner: alice
    reason: v1.4.3 answers 503 on /health
  become: true

- name: Give it back
  connectin.rollback.rollback_lock:
    state: absent
    run_id: 20260504T030201Z-7c1e
  become: true

- name: Break the lock of a run that nobody will continue
  connectin.rollback.rollback_lock:
    state: broken
    run_id: 20260504T030201Z-7c1e
    owner: bob
    reason: the controller is gone, and the fleet was checked by hand
  become: true
"""

RETURN = r"""
lock:
  description: The lock after the task, or as it would be in check mode. On failure the one that is in the way,
    null when the failure is another.
  returned: always
  type: dict
  contains: &lock
    held:
      description: Whether there is a lock whose lease lasts. All texts are empty when there is no lock.
      type: bool
      sample: true
    run_id:
      description: The run that has it.
      type: str
      sample: 20260504T030201Z-7c1e
    owner:
      description: Who.
      type: str
      sample: alice
    reason:
      description: Why.
      type: str
      sample: v1.4.3 answers 503 on /health
    since:
      description: When it was taken, in UTC.
      type: str
      sample: "2026-05-04T03:02:01Z"
    expires:
      description: When its lease ends, in UTC.
      type: str
      sample: "2026-05-04T05:02:01Z"
taken_over:
  description: The expired lock of another run that this one replaced, null when there was none.
  returned: always
  type: dict
  contains: *lock
removed:
  description: The lock that V(absent) or V(broken) removed, null when none was.
  returned: always
  type: dict
  contains: *lock
entry:
  description:
    - The line in the ledger that tells of the broken lock, or would be there in check mode; null when none was broken.
    - Its keys are those of RV(connectin.rollback.release_ledger#module:entry).
  returned: always
  type: dict
  sample: null
diff:
  description: The content of the lock file before and after.
  returned: success
  type: dict
  contains:
    before:
      description: The content that was found.
      type: str
      sample: ""
    after:
      description: The content that is written, empty when the lock is removed.
      type: str
      sample: ""
    before_header:
      description: The path of the lock.
      type: str
      sample: /var/lib/connectin-rollback/lock.json
    after_header:
      description: The path of the lock.
      type: str
      sample: /var/lib/connectin-rollback/lock.json
"""

import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import _ledger, _lock, _state_dir


def decide(params: dict[str, Any], found: _lock.Lock, now: float) -> _lock.Outcome:
    """What becomes of the lock that was found. Raises LockError when it cannot be had."""
    if params["state"] == "broken":
        return _lock.break_lock(found, params["run_id"] or "")
    if params["state"] == "absent":
        return _lock.release(found, params["run_id"])
    # A run that is continued by somebody else stays that of the owner who started it, unless it is told otherwise.
    login = "" if found.run_id == params["run_id"] else _state_dir.login_name()
    wanted = _lock.Lock(run_id=params["run_id"], owner=params["owner"] or login, reason=params["reason"] or "")
    return _lock.acquire(found, wanted, now, params["lease"])


def broken(params: dict[str, Any], removed: _lock.Lock, now: float) -> tuple[_ledger.Entry, str]:
    """The entry in the ledger that tells of a broken lock, and what to append there for it."""
    text = _state_dir.read_text(os.path.join(params["state_dir"], "ledger.jsonl")) or ""
    entry = _ledger.broken_lock(
        _ledger.parse(text).entries,
        removed.run_id,
        at=_lock.to_iso(now),
        who=params["owner"] or _state_dir.login_name(),
        why=params["reason"] or "",
    )
    return entry, _ledger.appended(text, entry)


def settle(module: AnsibleModule, path: str) -> dict[str, Any]:
    """Bring the lock where the options want it. Returns the module's results; the caller holds the directory."""
    text = _state_dir.read_text(path)
    now = time.time()
    outcome = decide(module.params, _lock.parse(text, now), now)
    after = (text or "") if not outcome.changed else outcome.lock.as_text() if outcome.lock.run_id else ""
    entry = None
    if module.params["state"] == "broken" and outcome.removed:
        entry, line = broken(module.params, outcome.removed, now)
        if not module.check_mode:
            # First the record: a lock that went without one would be a lock that nobody broke.
            _state_dir.append_text(os.path.join(module.params["state_dir"], "ledger.jsonl"), line)
    if outcome.changed and not module.check_mode:
        if after:
            _state_dir.write_atomic(path, after.encode("utf-8"))
        else:
            _state_dir.remove(path)
    return {
        "changed": outcome.changed,
        "lock": outcome.lock.as_dict(),
        "taken_over": outcome.taken_over and outcome.taken_over.as_dict(),
        "removed": outcome.removed and outcome.removed.as_dict(),
        "entry": entry and entry.as_dict(),
        "diff": {"before": text or "", "after": after, "before_header": path, "after_header": path},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "broken"], "default": "present"},
            "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
            "run_id": {"type": "str"},
            "owner": {"type": "str"},
            "reason": {"type": "str"},
            "lease": {"type": "int", "default": 7200},
        },
        required_if=[("state", "present", ("run_id",)), ("state", "absent", ("run_id",))],
        supports_check_mode=True,
    )
    directory = module.params["state_dir"]
    path = os.path.join(directory, "lock.json")
    # Only taking the lock may have to make the directory; where there is none, there is no lock to remove.
    reading = module.check_mode or (module.params["state"] != "present" and not os.path.isdir(directory))
    try:
        with _state_dir.shared(directory) if reading else _state_dir.exclusive(directory):
            result = settle(module, path)
    except (_lock.LockError, _state_dir.StateDirError) as error:
        found = getattr(error, "lock", None)
        lock = found.as_dict() if found else None
        module.fail_json(msg=str(error), changed=False, lock=lock, taken_over=None, removed=None, entry=None)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
