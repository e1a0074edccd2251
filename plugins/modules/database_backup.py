#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_backup
short_description: Dump the database before a lossy rollback, and put a dump back
version_added: 0.1.0
description:
  - With O(state=present) dumps the whole database, or only what a rollback loses, with C(pg_dump) in its custom format.
    A dump gets its name when it is whole and on the disk, with a manifest beside it that holds its checksum, the rows
    of every table and the state of the migrations.
  - With O(state=marked) notes where writing stands once the rollback is done, so that later writes show.
  - With O(state=restored) puts a dump back, after its checksum was compared. What is written since is never
    overwritten, unless the whole database is taken back and O(confirm) names the backup.
  - The password is given to C(pg_dump) in its environment, never on its command line.
author: ConnectIn operations (@connectin)
extends_documentation_fragment:
  - connectin.rollback.database
options:
  state:
    description:
      - What the backup is to be.
    type: str
    choices: [present, marked, restored]
    default: present
  dest:
    description:
      - The folder of the backup on the host that runs the task. Its last part is the backup's id.
    type: path
    required: true
  losses:
    description:
      - What a rollback loses, as M(connectin.rollback.prisma_migration_info) returns it. Only the tables that lose
        something are then dumped, with their partitions, as C(lost.dump). Where the table of a loss is unknown that is
        the whole database again.
      - Without it, and without O(tables), the whole database is dumped as C(full.dump).
    type: list
    elements: dict
  tables:
    description:
      - With O(state=present) the tables to dump as C(lost.dump), C(schema.name) or C(name).
      - With O(what=lost) puts back what these tables lost only.
    type: list
    elements: str
    default: []
  fresh:
    description:
      - A dump that is there already is only good enough when nothing was written in the server since.
    type: bool
    default: false
  release_from:
    description:
      - The release being left, for the manifest.
    type: str
    default: ''
  release_to:
    description:
      - The release that is gone back to, for the manifest.
    type: str
    default: ''
  run_id:
    description:
      - The run, for the manifest.
    type: str
  what:
    description:
      - What O(state=restored) puts back.
      - V(lost) is what the rollback lost, into tables and columns that a new deploy made again. Rows are inserted where
        none has their key, values are filled in where none was written since, in one transaction. What cannot go back
        that way is named in RV(left).
      - V(all) is the whole database, as it was when C(full.dump) was made. Nobody else may be connected.
    type: str
    choices: [lost, all]
    default: lost
  confirm:
    description:
      - The id of the backup, as the consent to lose what was written since. O(what=all) needs it whenever anything was
        written in the server after O(state=marked), or where that was never noted.
    type: str
    default: ''
  require_no_sessions:
    description:
      - Refuse to dump while another client is connected to the database. In check mode this is a warning.
    type: bool
    default: false
  sessions_wait:
    description:
      - Seconds to wait for the other clients to go.
    type: float
    default: 10
  client_dir:
    description:
      - The folder of C(pg_dump) and C(pg_restore). Without it they are looked for where the distributions put them, and
        on the path; those of the server's major version are taken, else newer ones with a warning.
    type: path
  client_container:
    description:
      - A container that has them, such as that of the database itself. They are then run there by C(docker exec), and
        the dump comes to the host. The URL's address has to lead to the database from there too.
    type: str
    default: ''
attributes:
  check_mode:
    description: Says what would be dumped, or counts what would go back, and refuses as a real run would.
    support: full
  diff_mode:
    description: Shows the manifest before and after.
    support: full
seealso:
  - module: connectin.rollback.database_backup_info
  - module: connectin.rollback.prisma_migration
"""

EXAMPLES = r"""
- name: Dump everything while the release that is left still serves
  connectin.rollback.database_backup:
    env_file: /srv/connectin/.env
    dest: /var/lib/connectin-rollback/backups/20260504T030201Z-7c1e
    release_from: v1.2.0
    release_to: v1.1.0
  async: 86400
  poll: 15

- name: Dump the tables that lose data again, once the writers are stopped
  connectin.rollback.database_backup:
    env_file: /srv/connectin/.env
    dest: /var/lib/connectin-rollback/backups/20260504T030201Z-7c1e
    losses: "{{ plan.database.price }}"
    fresh: true
    require_no_sessions: true

- name: Put back what the rollback lost, after the newer release was deployed again
  connectin.rollback.database_backup:
    state: restored
    env_file: /srv/connectin/.env
    dest: /var/lib/connectin-rollback/backups/20260504T030201Z-7c1e

- name: Take the whole database back, with the consent to lose what was written since
  connectin.rollback.database_backup:
    state: restored
    what: all
    confirm: 20260504T030201Z-7c1e
    client_container: connectin-db-1
    env_file: /srv/connectin/.env
    dest: /var/lib/connectin-rollback/backups/20260504T030201Z-7c1e
"""

RETURN = r"""
backup:
  description: The dump as its manifest has it, or as it would be made in check mode; then size and checksum are empty.
  returned: success
  type: dict
  contains:
    id:
      description: The backup's id.
      type: str
    kind:
      description: V(full) or V(lost).
      type: str
    whole:
      description: Whether it is of the whole database.
      type: bool
    file:
      description: Its path.
      type: str
    at:
      description: When it was made, in UTC.
      type: str
    size:
      description: Its bytes.
      type: int
    sha256:
      description: Its checksum.
      type: str
    server_version:
      description: The server's version.
      type: str
    client_version:
      description: The version of C(pg_dump).
      type: str
    tables:
      description: The tables in it, with schema, name and rows.
      type: list
      elements: dict
    losses:
      description: The losses it is for.
      type: list
      elements: dict
restored:
  description: With O(state=restored), the rows, or values of a column, that went back, by table or column.
  returned: success
  type: dict
kept:
  description: The rows or values that were written since in their place and were kept, by table or column.
  returned: success
  type: dict
left:
  description: What did not go back, and why, in words.
  returned: success
  type: list
  elements: str
code:
  description: What stopped it, such as V(backup_client_missing), V(backup_damaged), V(restore_unconfirmed),
    V(restore_schema) or V(writers_connected).
  returned: on failure, where one is known
  type: str
next:
  description: What to do about it.
  returned: on failure, where that is known
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _backup_files,
    _backup_programs,
    _backup_restore,
    _connection,
    _prisma_project,
)
from ansible_collections.connectin.rollback.plugins.module_utils._backup_database import Connection
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._state_dir import StateDirError

SHOWN = (
    "id",
    "kind",
    "whole",
    "at",
    "size",
    "sha256",
    "server_version",
    "client_version",
    "database",
    "release_from",
    "release_to",
    "tables",
    "losses",
)


def manifest_text(work):
    """Both manifests as they are stored, for the diff."""
    texts = []
    for kind in ("full", "lost"):
        try:
            manifest = _backup_files.read(work.folder, kind)
        except PrismaError:
            manifest = None
        texts.append(manifest.as_text() if manifest else "")
    return "".join(texts)


def settle(module, params, database):
    """Bring the backup where the options want it. Returns the module's results."""
    work = _backup_restore.Restore(params, database, _backup_programs.runner(module), module.warn)
    before = manifest_text(work)
    found = {"restored": {}, "kept": {}, "left": []}
    state = module.params["state"]
    if state == "restored":
        changed, manifest, result = work.restore(module.check_mode)
        found.update((key, result[key]) for key in found)
    elif state == "marked":
        changed, manifest = work.mark(module.check_mode)
    else:
        changed, manifest = work.make(module.check_mode)
    after = manifest_text(work) if not module.check_mode else manifest.as_text() if changed else before
    return {
        "changed": changed,
        "backup": {
            **{key: getattr(manifest, key) for key in SHOWN},
            "file": os.path.join(work.folder, manifest.file),
        },
        **found,
        "diff": {"before": before, "after": after, "before_header": work.folder, "after_header": work.folder},
    }


def main():
    module = AnsibleModule(
        argument_spec=dict(
            **_connection.ARGUMENTS,
            state={"type": "str", "choices": ["present", "marked", "restored"], "default": "present"},
            dest={"type": "path", "required": True},
            losses={"type": "list", "elements": "dict"},
            tables={"type": "list", "elements": "str", "default": []},
            fresh={"type": "bool", "default": False},
            release_from={"type": "str", "default": ""},
            release_to={"type": "str", "default": ""},
            run_id={"type": "str"},
            what={"type": "str", "choices": ["lost", "all"], "default": "lost"},
            confirm={"type": "str", "default": ""},
            require_no_sessions={"type": "bool", "default": False},
            sessions_wait={"type": "float", "default": 10},
            client_dir={"type": "path"},
            client_container={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
        mutually_exclusive=[*_connection.CONSTRAINTS["mutually_exclusive"], ("client_dir", "client_container")],
        required_one_of=_connection.CONSTRAINTS["required_one_of"],
    )
    database = None
    try:
        params, notes = _prisma_project.apply(module.params)
        target = _connection.target_from(params)
        for note in (*notes, *(f"database URL: {note}" for note in target.notes)):
            module.warn(note)
        database = Connection(target, params["connect_timeout"])
        result = settle(module, params, database)
    except PrismaError as error:
        module.fail_json(msg=error.message, **{"changed": False, **error.fields})
    except StateDirError as error:
        module.fail_json(msg=str(error), changed=False)
    finally:
        if database:
            database.close()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
