#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_checkout
short_description: Take the checkout of a Compose project to a release, whole or not at all
version_added: 0.1.0
description:
  - Checks out a commit that the checkout has already, detached. Nothing is fetched.
  - Tracked files that hold what this collection wrote there, as the ledger knows, are put back first. A file that
    somebody else changed stops the task before anything is changed, and so does one in the way that git does not track,
    ignored or not.
  - Where git fails midway, for instance because the disk is full, the files of the commit that was checked out before
    are put back and those that are new are removed; what this collection had written in them is gone then.
    C(git checkout) itself leaves a mixture, and refuses the next one.
author: ConnectIn operations (@connectin)
options:
  project_dir:
    description: The directory of the Compose project, a git checkout or a folder of one.
    type: path
    required: true
  commit:
    description: The commit to check out, in full.
    type: str
    required: true
  state_dir:
    description: The directory of the ledger.
    type: path
    default: /var/lib/connectin-rollback
attributes:
  check_mode:
    description: Can run in check mode and tells what it would do, and fails where it would.
    support: full
  diff_mode:
    description: Shows the commits before and after.
    support: full
seealso:
  - module: connectin.rollback.stack_info
  - module: connectin.rollback.stack_snapshot
  - module: ansible.builtin.git
"""

EXAMPLES = r"""
- name: Take the checkout to the planned commit
  connectin.rollback.stack_checkout:
    project_dir: /srv/connectin
    commit: c0ffee02ab5595859014ebf0951522d9d4b0c9a1
  become: true
"""

RETURN = r"""
before:
  description: The commit that was checked out.
  returned: success
  type: str
  sample: 6f1ed002ab5595859014ebf0951522d9d4b0c9a1
discarded:
  description: The tracked files with what this collection had written there, from the top of the checkout.
  returned: success
  type: list
  elements: str
  sample: [docker-compose.yml]
left:
  description: Where git failed midway, the files that could not be put back. Without any, the checkout is as it was.
  returned: when git failed
  type: list
  elements: str
  sample: []
diff:
  description: The commits before and after.
  returned: success
  type: dict
  contains:
    before:
      description: The commit that was checked out.
      type: str
      sample: "6f1ed002ab5595859014ebf0951522d9d4b0c9a1\n"
    after:
      description: The commit that is checked out then.
      type: str
      sample: "c0ffee02ab5595859014ebf0951522d9d4b0c9a1\n"
    before_header:
      description: The project.
      type: str
      sample: /srv/connectin
    after_header:
      description: The project.
      type: str
      sample: /srv/connectin
"""

import contextlib
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import _git, _ledger, _stack, _state_dir


class CheckoutError(Exception):
    """The checkout cannot be moved, and nothing was changed; the text is for the operator."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path", "required": True},
            "commit": {"type": "str", "required": True},
            "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
        },
        supports_check_mode=True,
    )
    directory = os.path.abspath(module.params["project_dir"])
    try:
        if not os.path.isdir(directory):
            raise CheckoutError(f"There is no folder {directory}. Next: ls -ld {directory}")
        # A controller that is killed leaves this at work: the next try's reading waits for its end.
        with contextlib.nullcontext() if module.check_mode else _state_dir.exclusive(directory):
            result = move(module, directory)
    except (CheckoutError, _state_dir.StateDirError) as error:
        module.fail_json(msg=str(error))
    except _git.GitError as error:
        module.fail_json(msg=_stack.git_failure(error, directory), left=list(error.left or ()))
    module.exit_json(**result)


def move(module: AnsibleModule, directory: str) -> dict[str, Any]:
    """Look first, then move. Returns the module's result; raises CheckoutError, GitError and StateDirError."""
    commit = module.params["commit"]
    git = reader(module, directory)
    found = git.checkout()
    header = dict.fromkeys(("before_header", "after_header"), directory)
    result = {
        "changed": found.head != commit,
        "before": found.head,
        "discarded": [],
        "diff": {"before": f"{found.head}\n", "after": f"{commit}\n", **header},
    }
    if not result["changed"]:
        return result
    if not git.has_commit(commit):
        raise CheckoutError(
            f"{directory} does not have the commit {commit}. Nothing was changed. Next: git -C {directory} fetch --tags"
        )
    text = _state_dir.read_text(os.path.join(module.params["state_dir"], "ledger.jsonl")) or ""
    hashes = {path: _state_dir.sha256(os.path.join(found.top, path)) for path in found.changed}
    others = _git.foreign(hashes, _ledger.pinned(_ledger.parse(text).entries))
    blocking = git.in_the_way(found, commit)
    refusals = [_stack.changes_refusal(others, directory)] if others else []
    refusals += [_stack.untracked_refusal(commit, blocking, directory)] if blocking else []
    if refusals:
        reasons = "; ".join(f"{refusal.message} ({refusal.next})" for refusal in refusals)
        raise CheckoutError(f"Nothing was changed: {reasons}")
    result["discarded"] = sorted(found.changed)
    if not module.check_mode:
        git.go_to(found, commit, commit, discard=result["discarded"])
    return result


def reader(module: AnsibleModule, directory: str) -> _git.Git:
    program = module.get_bin_path("git")
    if not program:
        raise CheckoutError("There is no git command on the host. Next: apt-get install git")

    def run(args: list[str]) -> tuple[int, str, str]:
        return module.run_command(
            [program, "-C", directory, *args],
            # Messages are read, so they have to be in the language of the programs' authors.
            environ_update={"LC_ALL": "C", "LANGUAGE": "C"},
            expand_user_and_vars=False,
        )

    return _git.Git(run)


if __name__ == "__main__":
    main()
