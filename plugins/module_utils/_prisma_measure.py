# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a script really destroyed, measured before the commit in the catalog and in the transaction's own statistics.

Reading a script shows what its statements say. What triggers, rules, functions, defaults or a CASCADE do besides is
seen here alone, while it can still be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_database import Place
from ansible_collections.connectin.rollback.plugins.module_utils._sql_loss import Loss
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


@dataclass(frozen=True)
class Table:
    """One table. ``deleted`` and ``updated`` are rows of this transaction; TRUNCATE gives it another ``file``."""

    name: str
    columns: Mapping[int, str]
    file: int
    filled: bool
    deleted: int
    updated: int


@dataclass(frozen=True)
class Expected:
    """What reading the script says of each table, by oid, with the partitions and children of each."""

    gone: frozenset[int]
    columns: frozenset[tuple[int, int]]
    deleted: frozenset[int]
    updated: frozenset[int]
    altered: frozenset[int]


NOTHING = Expected(frozenset(), frozenset(), frozenset(), frozenset(), frozenset())


def tables(database: Database, place: Place) -> dict[int, Table]:
    """Every table of the application, by oid."""
    found = database.execute(
        "SELECT c.oid::bigint AS oid, n.nspname, c.relname, c.relfilenode::bigint AS file, "
        "c.relpages > 0 OR c.reltuples > 0 OR pg_catalog.pg_stat_get_live_tuples(c.oid) > 0 AS filled, "
        "pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) AS deleted, "
        "pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) AS updated, "
        "ARRAY(SELECT a.attnum::int FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 "
        "AND NOT a.attisdropped ORDER BY a.attnum) AS numbers, "
        "ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 "
        "AND NOT a.attisdropped ORDER BY a.attnum) AS columns "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' "
        "AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' "
        # What an extension made goes with it, and comes back with it.
        "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass "
        "AND d.objid = c.oid AND d.deptype = 'e')"
    )
    return {
        row["oid"]: Table(
            names.shown(("" if row["nspname"] == place.current_schema else row["nspname"], row["relname"])),
            dict(zip(row["numbers"], row["columns"])),
            row["file"],
            row["filled"],
            row["deleted"],
            row["updated"],
        )
        for row in found
        if (row["nspname"], row["relname"]) != (place.schema, reading.TABLE)
    }


def expected(
    database: Database,
    place: Place,
    losses: Sequence[Loss],
    updated: Iterable[Relation],
    altered: Iterable[Relation],
    now: Mapping[int, Table],
) -> Expected:
    """Give what was read from the scripts its oids and numbers, by the names that tables and columns have ``now``."""
    wanted = sorted({loss.relation for loss in losses if loss.relation is not None} | set(updated) | set(altered))
    oids = reading.family(database, place, wanted)

    def of(relations: Iterable[Relation | None]) -> frozenset[int]:
        return frozenset(oid for relation in relations if relation is not None for oid in oids.get(relation, ()))

    return Expected(
        gone=of(loss.relation for loss in losses if loss.kind == "drop_table"),
        columns=frozenset(
            (oid, number)
            for loss in losses
            if loss.kind == "drop_column" and loss.relation is not None
            for oid in oids.get(loss.relation, ())
            for number, column in (now[oid].columns if oid in now else {}).items()
            if column == loss.column
        ),
        deleted=of(loss.relation for loss in losses if loss.kind in ("delete", "truncate", "drop_table")),
        updated=of(updated),
        altered=of(altered),
    )


def surprises(
    first: Mapping[int, Table],
    before: Mapping[int, Table],
    after: Mapping[int, Table],
    read: Expected,
    emptied: Callable[[int], bool],
) -> list[dict[str, Any]]:
    """What a script destroyed and reading the scripts did not say, as entries of a loss with the table's ``oid``.

    Only what was there before the ``first`` script counts: what scripts made themselves is nobody's data. ``emptied``
    tells whether a table has no file content any more.
    """
    found: list[dict[str, Any]] = []

    def tell(kind: str, oid: int, column: str, count: int | None, text: str) -> None:
        name = first[oid].name + (f".{column}" if column else "")
        found.append(
            {"kind": kind, "object": name, "relation": "", "column": column, "count": count, "text": text, "oid": oid}
        )

    for oid, was in first.items():
        last, now = before.get(oid), after.get(oid)
        if last is None:
            continue
        if now is None:
            if oid not in read.gone:
                tell("drop_table", oid, "", None, f"the table {was.name} goes with something else")
            continue
        for number, column in was.columns.items():
            if number in last.columns and number not in now.columns and (oid, number) not in read.columns:
                tell("drop_column", oid, column, None, f"the column {was.name}.{column} goes with something else")
        deleted, updated = now.deleted - last.deleted, now.updated - last.updated
        if deleted > 0 and oid not in read.deleted:
            tell("delete", oid, "", deleted, f"{_rows(deleted)} of {was.name} deleted by something else")
        if updated > 0 and oid not in read.updated:
            tell("update", oid, "", updated, f"{_rows(updated)} of {was.name} changed by something else")
        explained = oid in read.deleted or oid in read.altered
        # A table has another file where we wrote it, so asking for its size waits for nobody.
        if last.filled and last.file != now.file and not explained and emptied(oid):
            tell("truncate", oid, "", None, f"the table {was.name} was emptied by something else")
    return found


def is_empty(database: Database, oid: int) -> bool:
    return database.value("SELECT pg_catalog.pg_relation_size(%s::oid) = 0", [oid]) is True


def _rows(number: int) -> str:
    return f"{number} row{'s' if number > 1 else ''}"
