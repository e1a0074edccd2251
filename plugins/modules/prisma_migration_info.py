#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: prisma_migration_info
short_description: Read the migration history that Prisma keeps, with what undoing each migration needs and costs
version_added: 0.1.0
description:
  - Joins the rows of C(_prisma_migrations) with folders of migrations. For each migration it tells its state, whether
    it only adds,
    what its C(down.sql) would destroy, counted in the database, and everything that stands in the way of rolling it
    back.
  - It says what C(prisma migrate status) does not; before Prisma 7.9 that command calls a rolled back migration up to
    date.
  - Nothing is changed; the counts are read in read-only transactions.
author: ConnectIn operations (@connectin)
extends_documentation_fragment:
  - connectin.rollback.database
options:
  path:
    description:
      - Where the migrations are, in the forms of M(connectin.rollback.prisma_migration)'s O(path); first those of the
        release that is being left, since older releases do not have the newer down scripts; then the archive.
      - A folder that does not exist counts as empty.
    type: list
    elements: str
    default: []
  target_migrations:
    description:
      - The names of the migrations that the release to go back to contains.
    type: list
    elements: str
  backup_dir:
    description:
      - The folder in which M(connectin.rollback.database_backup) would keep a backup. With it RV(backup) says whether
        one could be made.
    type: path
  backup_client_dir:
    description:
      - As O(connectin.rollback.database_backup#module:client_dir).
    type: path
  backup_client_container:
    description:
      - As O(connectin.rollback.database_backup#module:client_container).
    type: str
    default: ''
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: connectin.rollback.prisma_migration
"""

EXAMPLES = r"""
- name: Read the history with the URL that the application uses
  connectin.rollback.prisma_migration_info:
    env_file: /srv/connectin/.env
    path:
      - /srv/connectin/apps/api/prisma/migrations
      - /var/lib/connectin-rollback/migrations
    target_migrations: ["20260101120000_init", "20260201120000_add_posts"]
  register: history

- name: Show what the target does not know
  ansible.builtin.debug:
    var: history.unknown_to_target
"""

RETURN = r"""
initialized:
  description: Whether C(_prisma_migrations) is where Prisma looks for it. The lists are empty where it is not.
  returned: success
  type: bool
  sample: true
schema:
  description: The schema of C(_prisma_migrations).
  returned: success
  type: str
  sample: public
layout:
  description: V(prisma-migrate), V(prisma-next) (Prisma 8, which has no down migrations) or V(none).
  returned: success
  type: str
  sample: prisma-migrate
server_version:
  description: PostgreSQL's version.
  returned: success
  type: str
  sample: "15.18"
database:
  description: The database's name.
  returned: success
  type: str
  sample: connectin
parser:
  description: The parser that read the scripts; empty where pglast is not installed.
  returned: success
  type: str
  sample: pglast 8.8
migrations:
  description: Every migration of the database and of the folders, oldest first, those without a row last.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The migration's name, which is the name of its folder.
      type: str
    state:
      description: V(applied), V(failed) (or still running), V(rolled_back), or V(pending) for one without a row.
      type: str
    started_at:
      description: When it was started, by the clock of the host that deployed it; null without a row.
      type: str
    finished_at:
      description: When it was finished.
      type: str
    rolled_back_at:
      description: When it was rolled back.
      type: str
    checksum_ok:
      description: Whether its migration.sql is the one that was applied; null where there is no such file or no live
        row.
      type: bool
    baselined:
      description: Whether it was marked as applied by hand, without running.
      type: bool
    live_rows:
      description: Its rows that are not rolled back; more than one after an attempt that nobody resolved.
      type: int
    out_of_order:
      description: Whether a migration whose name comes later was applied before it.
      type: bool
    source_dir:
      description: The folder its files were read from.
      type: str
    has_down:
      description: Whether there is a down.sql.
      type: bool
    has_verify:
      description: Whether there is a verify.sql, which is run after it.
      type: bool
    outside_transaction:
      description: Whether the down.sql starts with statements that run outside a transaction, so that
        M(connectin.rollback.prisma_migration) needs C(transaction=each).
      type: bool
    known_to_target:
      description: Whether O(target_migrations) has it; null where that was not given.
      type: bool
    additive:
      description: Whether it only adds, so that the release from before runs on the newer schema.
      type: bool
    reasons:
      description: Why it does not only add.
      type: list
      elements: str
    directive:
      description: V(keep) or V(down) from a line C(-- rollback:) in its down.sql.
      type: str
    loss:
      description: What its down.sql destroys, once everything newer is rolled back. Empty when nothing is lost.
      type: list
      elements: dict
      contains:
        kind:
          description: V(drop_table), V(drop_column), V(narrow), V(truncate), V(delete), V(update) or V(unknown).
          type: str
        object:
          description: The table or column.
          type: str
        relation:
          description: The table as it is called now, quoted as SQL wants it; empty where that is unknown.
          type: str
        column:
          description: The column as it is called now; empty where whole rows are lost.
          type: str
        count:
          description: Rows, or for a column its values that are not null; null where nobody can know.
          type: int
        text:
          description: The loss in words.
          type: str
    problems:
      description: Everything that stands in the way of rolling it back, with RV(migrations[].problems[].code) to
        decide on.
      type: list
      elements: dict
      contains:
        code:
          description: >-
            One of V(failed), V(edited), V(down_missing), V(down_empty), V(down_comment_only), V(down_unparsable),
            V(down_not_utf8),
            V(down_nul), V(down_psql_meta), V(down_copy_stdin), V(down_transaction_control),
            V(down_not_transactional), V(down_not_resumable), V(down_needs_parser), V(down_directive),
            V(archive_damaged), or one that begins with V(verify_), for a verify.sql.
          type: str
        message:
          description: What is wrong.
          type: str
        next:
          description: What to do about it.
          type: str
applied:
  description: The applied migrations, oldest first.
  returned: success
  type: list
  elements: str
failed_migrations:
  description: The migrations that failed or still run.
  returned: success
  type: list
  elements: str
unknown_to_target:
  description: The applied and failed migrations that O(target_migrations) lacks, newest first; empty where that was
    not given.
  returned: success
  type: list
  elements: str
last_applied:
  description: The newest applied migration.
  returned: success
  type: str
sessions:
  description: The other clients that are connected to this database.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The process.
      type: int
    application_name:
      description: What the client calls itself.
      type: str
    client_addr:
      description: Where it comes from.
      type: str
    state:
      description: What it does.
      type: str
    user:
      description: Its role.
      type: str
lock:
  description: Prisma's migration lock, which a deploy holds.
  returned: success
  type: dict
  contains:
    held:
      description: Whether somebody has it.
      type: bool
    holders:
      description: >-
        Who, with pid, application_name, client_addr, state, user and since; C(shared) is true where a pooler gave this
        module the same connection.
      type: list
      elements: dict
backup:
  description: Whether a backup could be made now; empty without O(backup_dir).
  returned: success
  type: dict
  contains:
    client:
      description: Where C(pg_dump) is; empty when there is none that fits.
      type: str
    client_version:
      description: Its version.
      type: str
    bytes:
      description: The size of all tables without their indexes, which a dump hardly reaches.
      type: int
    free:
      description: The bytes free in O(backup_dir).
      type: int
    path:
      description: That folder.
      type: str
    problems:
      description: What keeps a backup from being made, each with code, message and next.
      type: list
      elements: dict
    warnings:
      description: What to know of the client.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _backup_programs,
    _connection,
    _migration_files,
    _prisma_project,
    _sql_script,
)
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_history as history
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_plan as planning
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_rollback as rollback
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError


def time_text(value):
    return value.isoformat() if value else None


def describe(migration, loss, target, searched, out_of_order):
    """One migration as the module returns it."""
    row = migration.latest
    return {
        "name": migration.name,
        "state": migration.state,
        "started_at": time_text(row and row.started_at),
        "finished_at": time_text(row and row.finished_at),
        "rolled_back_at": time_text(row and row.rolled_back_at),
        "checksum_ok": migration.checksum_ok,
        "baselined": migration.baselined,
        "live_rows": len(migration.live_rows),
        "out_of_order": migration.name in out_of_order,
        "source_dir": migration.files.directory if migration.files else "",
        "has_down": migration.script is not None,
        "has_verify": migration.verify is not None,
        "outside_transaction": bool(migration.script and migration.script.outside),
        "known_to_target": None if target is None else migration.name in target,
        "additive": migration.additive,
        "reasons": list(migration.reasons),
        "directive": migration.directive,
        "loss": loss,
        "problems": [problem.as_dict() for problem in history.problems(migration, searched)],
    }


def read(module):
    """Everything the module returns, and what it warns of; one transaction, so that all of it is of one moment."""
    params, notes = _prisma_project.apply(module.params)
    files = _migration_files.read(params["path"], _migration_files.readers(module))
    database = _connection.Database(_connection.target_from(params), params["connect_timeout"])
    try:
        database.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        place = reading.locate(database, params["schema"])
        parser = _sql_script.parser_version()
        rows = reading.read_rows(database, place) if place.initialized else []
        migrations = history.join(rows, files, parser, params["path"])
        steps = [planning.Step(each, each.script) for each in planning.live_newest_first(migrations)]
        losses = rollback.losses_of(database, place, steps)
        target = params["target_migrations"]
        holders = reading.lock_holders(database)
        applied = [each.name for each in migrations if each.state == "applied"]
        out_of_order = history.out_of_order(migrations)
        return {
            "initialized": place.initialized,
            "schema": place.schema,
            "layout": place.layout,
            "server_version": place.server_version,
            "database": place.database,
            "parser": parser,
            "migrations": [
                describe(each, losses.get(each.name, []), target, params["path"], out_of_order) for each in migrations
            ],
            "applied": applied,
            "failed_migrations": [each.name for each in migrations if each.state == "failed"],
            "unknown_to_target": [] if target is None else [step.name for step in steps if step.name not in target],
            "last_applied": applied[-1] if applied else "",
            "sessions": reading.sessions(database),
            "lock": {"held": bool(holders), "holders": holders},
            "backup": _backup_programs.readiness(
                database,
                _backup_programs.runner(module),
                params["backup_client_dir"] or "",
                params["backup_client_container"],
                params["backup_dir"] or "",
            ),
        }, [*notes, *(f"database URL: {note}" for note in database.target.notes)]
    finally:
        database.close()


def main():
    module = AnsibleModule(
        argument_spec=dict(
            **_connection.ARGUMENTS,
            path={"type": "list", "elements": "str", "default": []},
            target_migrations={"type": "list", "elements": "str"},
            backup_dir={"type": "path"},
            backup_client_dir={"type": "path"},
            backup_client_container={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
        **_connection.CONSTRAINTS,
    )
    try:
        result, warnings = read(module)
    except PrismaError as error:
        module.fail_json(msg=error.message, changed=False, **error.fields)
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
