# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The history that Prisma keeps in ``_prisma_migrations``, joined with folders of migrations. Pure.

A row is applied (finished, not rolled back), failed or still running (neither), or rolled back. A name may have
several rows;
the live ones are those that are not rolled back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_additive, _sql_script
from ansible_collections.connectin.rollback.plugins.module_utils._sql_script import Problem, Script


@dataclass(frozen=True)
class Row:
    """One row of ``_prisma_migrations``, as it is."""

    id: str
    checksum: str
    finished_at: datetime | None
    migration_name: str
    logs: str | None
    rolled_back_at: datetime | None
    started_at: datetime
    applied_steps_count: int

    @property
    def live(self) -> bool:
        return self.rolled_back_at is None

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    @property
    def baselined(self) -> bool:
        """Marked by ``migrate resolve --applied``: Prisma never ran migration.sql here."""
        return self.finished and self.applied_steps_count == 0

    def as_dict(self) -> dict[str, Any]:
        """The whole row, so that it can be put back."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in ((name, getattr(self, name)) for name in COLUMNS)
        }


COLUMNS = tuple(Row.__dataclass_fields__)


@dataclass(frozen=True)
class Files:
    """What a source holds of one migration; None for a file that is not there.

    ``damaged`` is the file that is not what the source's own list of checksums says, or ''.
    """

    directory: str
    migration_sql: bytes | None
    down_sql: bytes | None
    down_path: str
    verify_sql: bytes | None = None
    verify_path: str = ""
    damaged: str = ""


@dataclass(frozen=True)
class Migration:
    """One name of the history, with its rows and its files."""

    name: str
    state: str
    rows: tuple[Row, ...]
    files: Files | None
    checksum_ok: bool | None
    script: Script | None
    additive: bool
    reasons: tuple[str, ...]
    verify: Script | None = None

    @property
    def live_rows(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.live)

    @property
    def latest(self) -> Row | None:
        """The live row, or the one of the newest attempt."""
        rows = self.live_rows or self.rows
        return rows[-1] if rows else None

    @property
    def live(self) -> bool:
        return bool(self.live_rows)

    @property
    def baselined(self) -> bool:
        return self.live and self.live_rows[-1].baselined

    @property
    def directive(self) -> str:
        return self.script.directive if self.script else ""


def checksum(raw: bytes) -> str:
    """The checksum that Prisma records for a migration.sql."""
    return hashlib.sha256(raw.decode("utf-8", "replace").encode()).hexdigest()


def checksums(raw: bytes) -> set[str]:
    """Every checksum that Prisma accepts for a migration.sql: as it is, with LF, with CRLF, and as old engines wrote
    them."""
    found = set()
    # Node replaces what is not UTF-8 before Prisma hashes it.
    text = raw.decode("utf-8", "replace")
    for variant in (text, text.replace("\r\n", "\n"), text.replace("\n", "\r\n")):
        digest = hashlib.sha256(variant.encode()).digest()
        found.add(digest.hex())
        found.add("".join(f"{byte:x}" for byte in digest))
    return found


def join(
    rows: Iterable[Row], files: Mapping[str, Sequence[Files]], parser: str, searched: Sequence[str]
) -> list[Migration]:
    """The history, oldest first: names with rows in the order they were started in, then the pending ones by name."""
    by_name: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.started_at, row.migration_name)):
        by_name.setdefault(row.migration_name, []).append(row)
    known = [_migration(name, tuple(found), files.get(name, ()), parser, searched) for name, found in by_name.items()]
    known.sort(key=lambda migration: (migration.latest.started_at, migration.name))
    pending = [_migration(name, (), files[name], parser, searched) for name in sorted(set(files) - set(by_name))]
    return known + pending


def out_of_order(migrations: Sequence[Migration]) -> set[str]:
    """The live migrations that were applied after one whose name comes later, as `migrate deploy` allows."""
    found = set()
    greatest = ""
    for migration in migrations:
        if migration.live:
            if migration.name < greatest:
                found.add(migration.name)
            greatest = max(greatest, migration.name)
    return found


def _chosen(live: Sequence[Row], candidates: Sequence[Files]) -> Files | None:
    """The source to take a migration from: the first that fits what was applied, of those that have its down.sql."""

    def fits(files: Files) -> bool | None:
        if not live or files.migration_sql is None:
            return None
        return live[-1].checksum in checksums(files.migration_sql)

    def rank(files: Files) -> tuple[bool, bool, bool]:
        return (bool(files.damaged), files.down_sql is None, fits(files) is False)

    if not candidates:
        return None
    best = min(candidates, key=rank)
    if best.migration_sql is None:
        # An archive of down scripts alone: the checksum is looked at where there is one.
        up = next((files.migration_sql for files in candidates if files.migration_sql is not None), None)
        best = replace(best, migration_sql=up)
    return best


def _migration(
    name: str, rows: tuple[Row, ...], candidates: Sequence[Files], parser: str, searched: Sequence[str]
) -> Migration:
    live = [row for row in rows if row.live]
    files = _chosen(live, candidates)
    if not rows:
        state = "pending"
    elif not live:
        state = "rolled_back"
    elif all(row.finished for row in live):
        state = "applied"
    else:
        # One unfinished row is enough for Prisma to refuse every deploy.
        state = "failed"
    migration_sql = files.migration_sql if files else None
    checksum_ok = None
    if live and migration_sql is not None:
        checksum_ok = live[-1].checksum in checksums(migration_sql)
    script = _sql_script.read(files.down_sql, files.down_path) if files and files.down_sql is not None else None
    verify = None
    if files and files.verify_sql is not None:
        verify = _sql_script.read(files.verify_sql, files.verify_path, "verify")
    against = _reasons_against(state, migration_sql, checksum_ok, parser, searched)
    return Migration(name, state, rows, files, checksum_ok, script, not against, tuple(against), verify)


def _reasons_against(
    state: str, migration_sql: bytes | None, checksum_ok: bool | None, parser: str, searched: Sequence[str]
) -> list[str]:
    if state == "failed":
        return ["it failed halfway: what of it is there is unknown"]
    if migration_sql is None:
        return [f"its migration.sql is not in {' or '.join(searched) or 'any folder, as none was given'}"]
    if checksum_ok is False:
        return ["its migration.sql is not the one that was applied"]
    if not parser:
        return ["pglast is not on the host that reads it, so nothing counts as only adding"]
    text = migration_sql.decode("utf-8-sig", "replace")
    tree, error, offset = _sql_script.parse_tree(text)
    if tree is None:
        return [f"its migration.sql, line {_sql_script.line_at(text, offset)}, cannot be read: {error}"]
    return _sql_additive.reasons(tree)


def problems(migration: Migration, searched: Sequence[str]) -> list[Problem]:
    """Everything that stands in the way of rolling this migration back; nothing for one that is not live."""
    if not migration.live:
        return []
    found: list[Problem] = []
    if migration.state == "failed":
        found.append(
            Problem(
                "failed",
                f"{migration.name} failed or still runs: its row has no finished_at, so what of it is there is "
                f"unknown.",
                "If nothing of it is there: failed=mark_only. If its down.sql copes with a part of it: "
                "failed=run_down. If it was finished by hand: state=applied. (In a playbook: "
                "-e rollback_failed_migrations=mark_only or run_down.)",
            )
        )
    if migration.checksum_ok is False:
        found.append(
            Problem(
                "edited",
                f"migration.sql of {migration.name} in {migration.files.directory} is not the one that was applied, "
                "so its down.sql may undo something else.",
                "Give the folder of the release that is being left; or checksum=warn if the change is known to be "
                "harmless.",
            )
        )
    if migration.files and migration.files.damaged:
        found.append(
            Problem(
                "archive_damaged",
                f"{migration.files.directory}/{migration.files.damaged} is not what SHA256SUMS beside it says.",
                f"Put it back from the release: cd {migration.files.directory} && sha256sum -c SHA256SUMS",
            )
        )
    if migration.script is None:
        found.append(
            Problem(
                "down_missing",
                f"{migration.name} has no down.sql in {' or '.join(searched) or 'any folder, as none was given'}.",
                "Give the folder of the release that is being left; or write the down.sql there and review it.",
            )
        )
    else:
        found.extend(migration.script.problems)
    if migration.verify is not None:
        found.extend(migration.verify.problems)
    return found
