#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: prisma_migration
short_description: Roll Prisma migrations back with their down scripts, or record one as applied
version_added: 0.1.0
description:
  - With O(state=rolled_back) runs the down scripts of the chosen migrations, newest first, and marks their rows in
    C(_prisma_migrations),
    all in one transaction. Either everything is rolled back, or the database is as it was.
  - The transaction holds the lock of C(prisma migrate), so no deploy runs meanwhile. A deploy that waits for the lock
    goes on afterwards
    and may apply the migrations again, which is why the writers have to be stopped first.
  - Every script is checked before the first statement of any, and what the scripts destroy is counted in the
    database. Data is only
    destroyed for the release that O(confirm_data_loss) names.
  - C(prisma migrate resolve --rolled-back) cannot do this, since it refuses a migration that was applied (P3012).
  - With O(state=applied) records a migration as applied that somebody repaired by hand, without running anything.
author: ConnectIn operations (@connectin)
extends_documentation_fragment:
  - connectin.rollback.database
options:
  state:
    description:
      - What the migrations are to be afterwards.
    type: str
    choices: [rolled_back, applied]
    default: rolled_back
  migrations:
    description:
      - The migrations, in any order. One that is rolled back already, or was never applied and has a folder, is no
        error; an unknown name is.
      - One of O(migrations), O(to_migrations), O(to_path), O(to_migration), O(steps) and O(failed_only) is needed.
    type: list
    elements: str
  to_migrations:
    description:
      - The migrations that the release to go back to contains. Every other one is rolled back.
      - An empty list, or one of which nothing is applied, is refused, since it would take everything down.
    type: list
    elements: str
  to_path:
    description:
      - Where the release to go back to keeps its migrations, in the forms of O(path). Every migration that is not there
        is rolled back.
    type: str
  to_migration:
    description:
      - The newest migration that stays. Everything that was applied after it is rolled back; that it is not applied is
        an error.
    type: str
  steps:
    description:
      - How many migrations are rolled back, newest first. Each run goes down further, unlike with the other choices.
    type: int
  failed_only:
    description:
      - Roll back what failed, in the way that O(failed) says.
    type: bool
  path:
    description:
      - Where the migrations are, on the host that runs the task. A folder, which may be missing;
        C(git:/srv/connectin@v1.2.0:apps/api/prisma/migrations), a folder of a commit, whatever the checkout is on now;
        or C(image:registry.example.com/api:v1.2.0:/app/prisma/migrations), a folder of a local image, which is not
        started.
      - They are searched in this order for each migration. First the one of the release that is being left, since older
        releases do not have the newer down scripts; then the archive of down scripts. A source whose C(migration.sql)
        is the one that was applied is preferred.
      - A folder that holds C(SHA256SUMS), as M(connectin.rollback.prisma_migration_archive) writes it, is held to it.
      - A C(verify.sql) beside C(down.sql) is run after it in the same transaction, read-only; a column of its rows that
        is false or null undoes everything.
    type: list
    elements: str
    default: []
  target:
    description:
      - The release to go back to, as the operator calls it. Needed where data may be lost.
    type: str
    default: ''
  confirm_data_loss:
    description:
      - The release, equal to O(target), for which data may be lost.
    type: str
    default: ''
  backup:
    description:
      - What M(connectin.rollback.database_backup) returned as RV(connectin.rollback.database_backup#module:backup) of
        the dump made before. Where it is given, data that is not in it is not lost, whatever the consent says.
    type: dict
  record:
    description:
      - V(mark) sets C(rolled_back_at), which keeps the history. Before Prisma 7.9 C(migrate status) then calls the
        database up to date.
      - V(delete) removes the row, for those who rely on that command or need C(migrate resolve --applied) afterwards.
    type: str
    choices: [mark, delete]
    default: mark
  failed:
    description:
      - What to do with a migration that failed halfway.
      - V(fail) refuses. V(mark_only) marks its row and runs nothing, for one that left nothing behind. V(run_down)
        runs its down.sql.
    type: str
    choices: [fail, mark_only, run_down]
    default: fail
  checksum:
    description:
      - What to do where migration.sql is not the one that was applied.
    type: str
    choices: [fail, warn, ignore]
    default: fail
  transaction:
    description:
      - V(all) runs everything in one transaction, so that the database is as before or as wanted.
      - V(each) commits each migration with its row by itself; what is committed stays when an older one fails, and the
        next run goes on from there.
      - >-
        A down.sql with a line C(-- rollback: no-transaction) needs V(each). What it starts with, such as C(DROP INDEX
        CONCURRENTLY), runs outside a transaction; the statements that follow run in one with the row. A run that was
        cut off is taken up again, since the catalog shows what is done.
    type: str
    choices: [all, each]
    default: all
  lock_wait:
    description:
      - Seconds to wait for Prisma's lock, and for another session that holds up a statement outside a transaction. A
        deploy can hold the lock for ten seconds after its last migration.
    type: float
    default: 30
  lock_timeout:
    description:
      - Seconds that each statement waits for a lock on a table, so that nothing queues behind it for long. V(0) waits
        without end.
    type: float
    default: 5
  statement_timeout:
    description:
      - Seconds that each statement may take. V(0) sets no limit.
    type: float
    default: 0
  retries:
    description:
      - How often the whole transaction is tried again when a lock was not to be had.
    type: int
    default: 5
  require_no_sessions:
    description:
      - Refuse while another client is connected to the database. In check mode this is a warning.
    type: bool
    default: false
  sessions_wait:
    description:
      - Seconds to wait for the other clients to go.
    type: float
    default: 10
attributes:
  check_mode:
    description: Plans, checks the scripts, counts what would be lost and refuses as a real run would, in read-only
      transactions.
    support: full
  diff_mode:
    description: Shows the applied migrations before and after, and the SQL.
    support: full
seealso:
  - module: connectin.rollback.prisma_migration_info
"""

EXAMPLES = r"""
- name: Go back to the schema of v1.1.0
  connectin.rollback.prisma_migration:
    env_file: /srv/connectin/.env
    path:
      - /srv/connectin/apps/api/prisma/migrations
      - /var/lib/connectin-rollback/migrations
    to_migrations: ["20260101120000_init", "20260201120000_add_posts"]
    target: v1.1.0
    confirm_data_loss: "{{ rollback_confirm_data_loss | default('') }}"
    require_no_sessions: true

- name: Undo what a failed deploy left, with the scripts of the image that was deployed
  connectin.rollback.prisma_migration:
    env_file: /srv/connectin/.env
    path: ["image:registry.example.com/connectin-api:v1.2.0:/app/prisma/migrations"]
    failed_only: true
    failed: run_down

- name: Go down to a migration, one transaction for each
  connectin.rollback.prisma_migration:
    env_file: /srv/connectin/.env
    path: ["git:/srv/connectin@v1.2.0:apps/api/prisma/migrations"]
    to_migration: 20260201120000_add_posts
    transaction: each

- name: Record a migration as applied that was repaired by hand
  connectin.rollback.prisma_migration:
    state: applied
    env_file: /srv/connectin/.env
    path: [/srv/connectin/apps/api/prisma/migrations]
    migrations: ["20260301120000_rename_name"]
"""

RETURN = r"""
plan:
  description: What goes down, newest first, or would in check mode. After a real run the losses are those counted
    under the locks.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The migration.
      type: str
    loss:
      description: What is lost, as in M(connectin.rollback.prisma_migration_info).
      type: list
      elements: dict
    sql_sha256:
      description: The SHA-256 of its down.sql; empty where only the row is marked.
      type: str
rolled_back:
  description: What was rolled back, in the order in which it was.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The migration.
      type: str
    ids:
      description: The rows that were recorded as rolled back.
      type: list
      elements: str
    sql_sha256:
      description: The SHA-256 of its down.sql.
      type: str
    statements:
      description: How many statements ran.
      type: int
    duration_ms:
      description: How long they took.
      type: int
    notices:
      description: What PostgreSQL remarked, such as what a CASCADE took.
      type: list
      elements: str
    recorded_by:
      description: V(module), or V(script) where the script changes its own row.
      type: str
recorded:
  description: With O(state=applied), the migrations recorded as applied.
  returned: always
  type: list
  elements: str
remaining:
  description: The chosen migrations that are not in the wanted state afterwards; empty after a success.
  returned: always
  type: list
  elements: str
ledger_before:
  description: The whole rows that a change touches, as they were, so that they can be put back.
  returned: always
  type: list
  elements: dict
applied_before:
  description: The applied migrations before, oldest first.
  returned: always
  type: list
  elements: str
applied_after:
  description: The applied migrations afterwards, read again from the database; in check mode those that would be left.
  returned: always
  type: list
  elements: str
last_applied:
  description: The newest applied migration afterwards.
  returned: always
  type: str
failed_migration:
  description: The migration that stopped it.
  returned: on failure, where one did
  type: str
sqlstate:
  description: PostgreSQL's error code.
  returned: on failure of a statement
  type: str
message:
  description: PostgreSQL's error.
  returned: on failure of a statement
  type: str
file:
  description: The script.
  returned: on failure of a statement
  type: str
line:
  description: The line in the script, from 1; 0 where PostgreSQL names none.
  returned: on failure of a statement
  type: int
statement:
  description: The statement.
  returned: on failure of a statement
  type: str
outcome:
  description: >-
    What became of a COMMIT during or after which the connection was lost. V(aborted); V(committed), when only reading
    it again failed; or V(unknown), which counts as changed, since it may be.
  returned: on failure, where that happened
  type: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _connection,
    _migration_files,
    _prisma_project,
    _sql_script,
)
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_history as history
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_outside as outside
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_plan as planning
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_rollback as rollback
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

CHOICES = ("migrations", "to_migrations", "to_path", "to_migration", "steps", "failed_only")


def applied_names(migrations):
    return [each.name for each in migrations if each.state == "applied"]


class Run:
    """One call. ``result`` is filled as far as it got, so that a failure tells as much as a success."""

    def __init__(self, module):
        self.check_mode = module.check_mode
        self.module = module
        self.result = {
            "changed": False,
            "plan": [],
            "rolled_back": [],
            "recorded": [],
            "remaining": [],
            "ledger_before": [],
            "applied_before": [],
            "applied_after": [],
            "last_applied": "",
        }
        self.readers = _migration_files.readers(module)
        self.params, notes = _prisma_project.apply(module.params)
        self.warn(notes)
        self.target = _connection.target_from(self.params)
        self.warn(f"database URL: {note}" for note in self.target.notes)

    def warn(self, notes):
        for note in notes:
            self.module.warn(note)

    def connect(self):
        return _connection.Database(self.target, self.params["connect_timeout"])

    def go(self):
        self.database = self.connect()
        try:
            self.place = reading.locate(self.database, self.params["schema"])
            reading.require_history(self.place)
            self.rows = reading.read_rows(self.database, self.place)
            if self.check_mode:
                self.database.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.files = _migration_files.read(self.params["path"], self.readers)
            self.migrations = self.join(self.rows)
            self.after(self.migrations)
            self.result["applied_before"] = self.result["applied_after"]
            if self.params["state"] == "applied":
                self.record_applied()
            else:
                self.roll_back()
        finally:
            self.database.close()

    def join(self, rows):
        return history.join(rows, self.files, _sql_script.parser_version(), self.params["path"])

    def after(self, migrations):
        self.after_names(applied_names(migrations))

    def after_names(self, names):
        self.result["applied_after"] = names
        self.result["last_applied"] = names[-1] if names else ""

    def transaction(self):
        options = rollback.Options(
            **{name: self.params[name] for name in rollback.Options.__dataclass_fields__ if name in self.params}
        )
        return rollback.Transaction(self.database, self.place, self.rows, options, time, self.connect)

    def read_again(self):
        """What the database says now, over a connection that may have been lost meanwhile."""
        try:
            self.look_again()
        except PrismaError as error:
            raise PrismaError(
                f"It was changed and committed, but the database could not be read again to prove it: {error.message}",
                outcome="committed",
            ) from None

    def look_after_some(self, gone):
        """What is applied after a part was rolled back; the failure itself matters more than one of looking."""
        try:
            self.look_again()
        except PrismaError as error:
            self.after_names([name for name in self.result["applied_before"] if name not in gone])
            self.warn([f"the history could not be read again: {error.message}"])

    def look_again(self):
        if not self.database.alive:
            self.database = self.connect()
        self.after(self.join(reading.read_rows(self.database, self.place)))

    def diff(self, prepared):
        before, after = self.result["applied_before"], self.result["applied_after"]
        self.result["diff"] = {
            "before": "".join(f"{name}\n" for name in before),
            "after": "".join(f"{name}\n" for name in after),
            "before_header": f"applied in {self.place.table}",
            "after_header": f"applied in {self.place.table}",
            "prepared": prepared,
        }

    def choice(self):
        params = self.params
        keep, kept_as = params["to_migrations"], "to_migrations"
        if params["to_path"] is not None:
            keep, kept_as = _migration_files.names(params["to_path"], self.readers), "to_path"
        return planning.Choice(
            names=params["migrations"],
            keep=keep,
            kept_as=kept_as,
            to=params["to_migration"],
            steps=params["steps"],
            failed_only=bool(params["failed_only"]),
        )

    def roll_back(self):
        params, result = self.params, self.result
        going = planning.chosen(self.migrations, self.choice())
        result["remaining"] = [each.name for each in going]
        result["ledger_before"] = [row.as_dict() for each in going for row in each.live_rows]
        if not going:
            self.diff("")
            return
        plan = planning.make(
            self.migrations, going, params["failed"], params["checksum"], params["path"], params["transaction"]
        )
        if any(step.outside for step in plan.steps):
            outside.require_direct(self.database)
        self.warn(plan.warnings)
        result["plan"] = plan.as_list()
        plan = planning.Plan(plan.steps, plan.warnings, rollback.losses_of(self.database, self.place, plan.steps))
        result["plan"] = plan.as_list()
        planning.require_consent(plan, params["target"], params["confirm_data_loss"])
        if self.check_mode:
            self.look_only()
            gone = {step.name for step in plan.steps}
            names = [name for name in result["applied_before"] if name not in gone]
            result.update(changed=True, remaining=[], applied_after=names, last_applied=names[-1] if names else "")
        else:
            transaction = self.transaction()
            try:
                outcome = transaction.roll_back(plan)
            except PrismaError as error:
                gone = {step["name"] for step in error.fields.get("rolled_back", ())}
                result["remaining"] = [name for name in result["remaining"] if name not in gone]
                self.database = transaction.database
                if gone:
                    self.look_after_some(gone)
                raise
            finally:
                self.database = transaction.database
                self.warn(transaction.warnings)
            result.update(
                changed=True, remaining=[], plan=outcome.plan.as_list(), rolled_back=list(outcome.rolled_back)
            )
            self.read_again()
        self.diff(plan.sql)

    def look_only(self):
        """What would have to wait, in check mode."""
        holders = reading.lock_holders(self.database)
        if holders:
            held = "; ".join(map(reading.session_text, holders))
            self.warn([f"Prisma's migration lock is held by {held}"])
        found = reading.sessions(self.database) if self.params["require_no_sessions"] else []
        if found:
            who = "; ".join(map(reading.session_text, found))
            self.warn([f"a real run would wait for these sessions to go, and refuse if they stay: {who}"])

    def record_applied(self):
        by_name = {each.name: each for each in self.migrations}
        wanted = []
        for name in self.params["migrations"]:
            migration = by_name.get(name)
            if migration and migration.state == "applied":
                continue
            if not migration or not migration.files or migration.files.migration_sql is None:
                raise PrismaError(
                    f"{name} has no migration.sql in "
                    f"{' or '.join(self.params['path']) or 'any folder, as path was not given'}; its "
                    "checksum is what is recorded. Give the folder of the release that contains it.",
                    failed_migration=name,
                )
            wanted.append(migration)
        result = self.result
        result["remaining"] = [each.name for each in wanted]
        result["ledger_before"] = [row.as_dict() for each in wanted for row in each.live_rows]
        if wanted and not self.check_mode:
            self.transaction().mark_applied(
                [(each.name, history.checksum(each.files.migration_sql)) for each in wanted]
            )
        if wanted:
            names = [each.name for each in wanted]
            result.update(changed=True, remaining=[], recorded=names)
            if self.check_mode:
                result.update(applied_after=[*result["applied_before"], *names], last_applied=names[-1])
            else:
                self.read_again()
        self.diff("")


def main():
    module = AnsibleModule(
        argument_spec=dict(
            **_connection.ARGUMENTS,
            state={"type": "str", "choices": ["rolled_back", "applied"], "default": "rolled_back"},
            migrations={"type": "list", "elements": "str"},
            to_migrations={"type": "list", "elements": "str"},
            to_path={"type": "str"},
            to_migration={"type": "str"},
            steps={"type": "int"},
            failed_only={"type": "bool"},
            path={"type": "list", "elements": "str", "default": []},
            target={"type": "str", "default": ""},
            confirm_data_loss={"type": "str", "default": ""},
            backup={"type": "dict"},
            record={"type": "str", "choices": ["mark", "delete"], "default": "mark"},
            failed={"type": "str", "choices": ["fail", "mark_only", "run_down"], "default": "fail"},
            checksum={"type": "str", "choices": ["fail", "warn", "ignore"], "default": "fail"},
            transaction={"type": "str", "choices": ["all", "each"], "default": "all"},
            lock_wait={"type": "float", "default": 30},
            lock_timeout={"type": "float", "default": 5},
            statement_timeout={"type": "float", "default": 0},
            retries={"type": "int", "default": 5},
            require_no_sessions={"type": "bool", "default": False},
            sessions_wait={"type": "float", "default": 10},
        ),
        supports_check_mode=True,
        mutually_exclusive=[*_connection.CONSTRAINTS["mutually_exclusive"], CHOICES],
        required_one_of=[*_connection.CONSTRAINTS["required_one_of"], CHOICES],
        required_if=[("state", "applied", ["migrations"])],
    )
    run = None
    try:
        run = Run(module)
        run.go()
    except PrismaError as error:
        module.fail_json(msg=error.message, **{"changed": False, **(run.result if run else {}), **error.fields})
    module.exit_json(**run.result)


if __name__ == "__main__":
    main()
