#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_backup_info
short_description: List the backups of the database that are kept on a host
version_added: 0.1.0
description:
  - Reads the manifests of the backups that M(connectin.rollback.database_backup) made. The dumps themselves are not
    read, so their checksums are not compared; a restore does that first.
author: ConnectIn operations (@connectin)
options:
  path:
    description:
      - The folder that holds the backups, a folder for each.
    type: path
    default: /var/lib/connectin-rollback/backups
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: connectin.rollback.database_backup
"""

EXAMPLES = r"""
- name: List the backups
  connectin.rollback.database_backup_info:
  become: true
  register: backups
"""

RETURN = r"""
backups:
  description: The backups, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The backup's id, that of the run which made it.
      type: str
    path:
      description: Its folder.
      type: str
    at:
      description: When it was made, in UTC.
      type: str
    release_from:
      description: The release that was left.
      type: str
    release_to:
      description: The release that was gone back to.
      type: str
    dumps:
      description: Its dumps, each with kind, file, size, sha256, whole, at and rows.
      type: list
      elements: dict
    problems:
      description: What is wrong with it.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_files
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._state_dir import StateDirError


def main():
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/var/lib/connectin-rollback/backups"}},
        supports_check_mode=True,
    )
    try:
        backups = _backup_files.listed(module.params["path"])
    except PrismaError as error:
        module.fail_json(msg=error.message, changed=False, **error.fields)
    except StateDirError as error:
        module.fail_json(msg=str(error), changed=False)
    module.exit_json(changed=False, backups=backups)


if __name__ == "__main__":
    main()
