#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: prisma_migration_archive
short_description: Keep the migrations of a release with their checksums
version_added: 0.1.0
description:
  - Copies C(migration.sql), C(down.sql) and C(verify.sql) of every migration of a release into a folder for each,
    beside a list C(SHA256SUMS). A rollback then still works after the checkout moved, or the image is gone.
  - M(connectin.rollback.prisma_migration) and M(connectin.rollback.prisma_migration_info) read the archive as one of
    their sources and refuse a script that is not what the list says; C(sha256sum -c SHA256SUMS) looks by hand.
  - Each migration is put in place whole. Nothing is ever removed from the archive.
author: ConnectIn operations (@connectin)
options:
  path:
    description:
      - Where the migrations are, in the forms of M(connectin.rollback.prisma_migration)'s O(path), on the host that
        runs the task. The first source that has a migration's C(down.sql) is the one that is kept.
    type: list
    elements: str
    required: true
  dest:
    description:
      - The archive on that host. It is made, for its owner alone, where it is missing.
    type: path
    required: true
attributes:
  check_mode:
    description: Says what would be written and writes nothing.
    support: full
  diff_mode:
    description: Shows the checksums that change.
    support: full
seealso:
  - module: connectin.rollback.prisma_migration
"""

EXAMPLES = r"""
- name: Keep the migrations of the release that is being left
  connectin.rollback.prisma_migration_archive:
    path:
      - /srv/connectin/apps/api/prisma/migrations
    dest: /var/lib/connectin-rollback/migrations
"""

RETURN = r"""
archived:
  description: The migrations of the sources, as they are in the archive now.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The migration.
      type: str
    source:
      description: The folder it was read from.
      type: str
    changed:
      description: Whether the archive held something else before.
      type: bool
    sha256:
      description: The SHA-256 of each script by its file's name.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import _migration_archive as archive
from ansible_collections.connectin.rollback.plugins.module_utils import _migration_files, _state_dir
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError


def keep(module):
    """The module's result."""
    dest = module.params["dest"]
    found = _migration_files.read(module.params["path"], _migration_files.readers(module))
    if not found:
        raise PrismaError(f"There is no migration in {' or '.join(module.params['path'])}. Nothing was archived.")
    # A down.sql that only the archive has, such as one written for it, stays.
    kept = _migration_files.read([dest], _migration_files.Readers())
    archived, before, after = [], "", ""
    for name, candidates in sorted(found.items()):
        files = min((*candidates, *kept.get(name, ())), key=lambda each: (bool(each.damaged), each.down_sql is None))
        if files.damaged:
            raise PrismaError(
                f"{files.directory}/{files.damaged} is not what SHA256SUMS beside it says. Nothing of it was archived."
            )
        content = archive.scripts(files)
        changed = archive.differs(dest, name, content)
        listed = content[_migration_files.SUMS].decode()
        archived.append(
            {
                "name": name,
                "source": files.directory,
                "changed": changed,
                "sha256": {file: digest for digest, file in (line.split("  ", 1) for line in listed.splitlines())},
            }
        )
        if changed:
            was = _state_dir.read_text(f"{dest}/{name}/{_migration_files.SUMS}") or ""
            before += "".join(f"{name}: {line}\n" for line in was.splitlines())
            after += "".join(f"{name}: {line}\n" for line in listed.splitlines())
            if not module.check_mode:
                archive.write(dest, name, content)
    return {
        "changed": any(each["changed"] for each in archived),
        "archived": archived,
        "diff": {"before": before, "after": after, "before_header": dest, "after_header": dest},
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "list", "elements": "str", "required": True},
            "dest": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    dest = module.params["dest"]
    try:
        if module.check_mode:
            result = keep(module)
        else:
            with _state_dir.exclusive(dest):
                archive.mend(dest)
                result = keep(module)
    except PrismaError as error:
        module.fail_json(msg=error.message, **error.fields)
    except _state_dir.StateDirError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
