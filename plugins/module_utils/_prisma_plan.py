# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which migrations one call rolls back, in which order, and why it may not. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_history as history
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import Migration
from ansible_collections.connectin.rollback.plugins.module_utils._sql_outside import Outside
from ansible_collections.connectin.rollback.plugins.module_utils._sql_script import Script, Statement


@dataclass(frozen=True)
class Step:
    """One migration to roll back. ``script`` is None where only its rows are marked."""

    migration: Migration
    script: Script | None

    @property
    def name(self) -> str:
        return self.migration.name

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.migration.live_rows)

    @property
    def statements(self) -> tuple[Statement, ...]:
        return self.script.statements if self.script else ()

    @property
    def outside(self) -> tuple[tuple[Statement, Outside], ...]:
        """The statements that run before those, each by itself."""
        return self.script.outside if self.script else ()

    @property
    def verify(self) -> Script | None:
        return self.migration.verify if self.script else None


@dataclass(frozen=True)
class Plan:
    """The steps, newest first, and what the operator should know although it stops nothing."""

    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    losses: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def as_list(self) -> list[dict[str, Any]]:
        return [
            {
                "name": step.name,
                "loss": list(self.losses.get(step.name, ())),
                "sql_sha256": step.script.sha256 if step.script else "",
            }
            for step in self.steps
        ]

    @property
    def lossy(self) -> bool:
        return any(self.losses.values())

    @property
    def sql(self) -> str:
        """Everything that will run, for the diff."""
        return "".join(
            f"-- {step.script.path if step.script else step.name + ': its row is marked, no SQL'}\n"
            + "".join(f"{statement.text};\n" for statement, _what in step.outside)
            + "".join(f"{statement.text};\n" for statement in step.statements)
            for step in self.steps
        )


def live_newest_first(migrations: Sequence[Migration]) -> list[Migration]:
    return [migration for migration in reversed(migrations) if migration.live]


@dataclass(frozen=True)
class Choice:
    """How the operator says what goes: one of these, the others None or False.

    ``keep`` are the names that the target contains; ``kept_as`` is the option they came in.
    """

    names: Sequence[str] | None = None
    keep: Sequence[str] | None = None
    kept_as: str = "to_migrations"
    to: str | None = None
    steps: int | None = None
    failed_only: bool = False


def chosen(migrations: Sequence[Migration], choice: Choice) -> list[Migration]:
    """The live migrations that go, newest first. A name that nobody knows is refused, never passed over."""
    live = live_newest_first(migrations)
    if choice.names is not None:
        for name in choice.names:
            _require_known(name, migrations)
        return [migration for migration in live if migration.name in set(choice.names)]
    if choice.to is not None:
        _require_known(choice.to, migrations)
        names = [migration.name for migration in live]
        if choice.to not in names:
            raise PrismaError(
                f"{choice.to} is not applied, so there is no way down to it. Applied: {', '.join(names) or 'none'}.",
                failed_migration=choice.to,
            )
        return live[: names.index(choice.to)]
    if choice.steps is not None:
        if not 0 < choice.steps <= len(live):
            raise PrismaError(
                f"steps is {choice.steps}, and {len(live)} migrations can go down: give a number from 1 to {len(live)}."
            )
        return live[: choice.steps]
    if choice.failed_only:
        return [migration for migration in live if migration.state == "failed"]
    return _not_kept(live, set(choice.keep or ()), choice.kept_as)


def _require_known(name: str, migrations: Sequence[Migration]) -> None:
    known = sorted({migration.name for migration in migrations})
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise PrismaError(
            f"No migration is called {name}, neither in the database nor in the given folders."
            + (f" Did you mean {close[0]}?" if close else ""),
            failed_migration=name,
        )


def _not_kept(live: Sequence[Migration], target: set[str], kept_as: str) -> list[Migration]:
    if not target:
        raise PrismaError(
            f"{kept_as} is empty, which would take every migration down. If that is meant, name them in migrations."
        )
    if live and not any(migration.name in target for migration in live):
        raise PrismaError(
            f"None of the {len(target)} migrations in {kept_as} is applied here, so every one of the {len(live)} "
            "applied would go down. This looks like another project or database; if it is meant, name them in "
            "migrations."
        )
    return [migration for migration in live if migration.name not in target]


def make(
    migrations: Sequence[Migration],
    going: Sequence[Migration],
    failed: str,
    checksum: str,
    searched: Sequence[str],
    transaction: str = "all",
) -> Plan:
    """Check every migration that goes before the first statement of any; all problems are named at once."""
    refusals: list[tuple[str, str]] = []
    warnings: list[str] = []
    steps: list[Step] = []
    for migration in going:
        mark_only = migration.state == "failed" and failed == "mark_only"
        if mark_only:
            steps.append(Step(migration, None))
            continue
        for problem in history.problems(migration, searched):
            if problem.code == "failed" and failed != "fail":
                continue
            if problem.code == "edited" and checksum != "fail":
                if checksum == "warn":
                    warnings.append(problem.message)
                continue
            refusals.append((migration.name, f"{problem.message} {problem.next}"))
        if migration.script and migration.script.outside and transaction == "all":
            statement = migration.script.outside[0][0]
            what = (
                f"{migration.script.path}, line {statement.line}: {' '.join(statement.words[:3])} runs outside a "
                "transaction, so the plan cannot be one. Give transaction=each (in a playbook: "
                "-e rollback_transaction=each)."
            )
            refusals.append((migration.name, what))
        warnings.extend(_notes(migration, checksum))
        steps.append(Step(migration, migration.script))
    if refusals:
        raise PrismaError(
            "Nothing was changed, because not every migration that goes down can: "
            + " | ".join(text for _name, text in refusals),
            failed_migration=refusals[0][0],
        )
    warnings.extend(_order_notes(migrations, going))
    return Plan(tuple(steps), tuple(warnings))


def _notes(migration: Migration, checksum: str) -> list[str]:
    notes = []
    if migration.checksum_ok is None and checksum != "ignore":
        notes.append(
            f"migration.sql of {migration.name} was not found, so nothing says that its down.sql fits what was applied"
        )
    if migration.baselined:
        notes.append(f"{migration.name} was marked as applied by hand: Prisma never ran its migration.sql here")
    if len(migration.live_rows) > 1:
        notes.append(f"{migration.name} has {len(migration.live_rows)} rows that are not rolled back; all are recorded")
    if migration.directive == "keep":
        notes.append(f"{migration.name} goes down although its down.sql says `-- rollback: keep`")
    if migration.script and migration.script.flattened:
        notes.append(f"BEGIN and COMMIT in {migration.script.path} were left out: everything runs in one transaction")
    return notes


def _order_notes(migrations: Sequence[Migration], going: Sequence[Migration]) -> list[str]:
    notes = []
    names = [migration.name for migration in going]
    if names != sorted(names, reverse=True):
        notes.append(
            f"the migrations were applied in another order than their names have; they go down in the reverse order "
            f"of application: "
            f"{', '.join(names)}"
        )
    if going:
        oldest = [migration.name for migration in migrations].index(going[-1].name)
        staying = [
            migration.name for migration in migrations[oldest:] if migration.live and migration.name not in names
        ]
        if staying:
            notes.append(f"newer migrations stay applied: {', '.join(staying)}")
    going_names = set(names)
    failed = [m.name for m in migrations if m.state == "failed" and m.name not in going_names]
    if failed:
        notes.append(
            f"{', '.join(failed)} failed or still runs and stays so: it blocks every `prisma migrate deploy` (P3009)"
        )
    return notes


def require_consent(plan: Plan, target: str, confirmed: str) -> None:
    """Data may only be lost for the release that the operator named."""
    if not plan.lossy or target and confirmed == target:
        return
    lost = "; ".join(f"{name}: {entry['text']}" for name, entries in plan.losses.items() for entry in entries)
    what = (
        f"confirm_data_loss is {confirmed!r}, and the target is {target!r}"
        if confirmed
        else "confirm_data_loss is not given"
    )
    raise PrismaError(
        f"Nothing was changed, because data would be lost and {what}. Lost would be: {lost}. "
        + (
            f"If that may be lost: confirm_data_loss={target} (in a playbook: -e rollback_confirm_data_loss={target})."
            if target
            else "If that may be lost, give target and confirm_data_loss with the same release."
        ),
        failed_migration=next(name for name, entries in plan.losses.items() if entries),
    )
