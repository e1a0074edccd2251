# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The SQL that puts lost rows and values back among what is there now, and never overwrites any of it. Pure.

The dump's rows are in a temporary table whose columns are all text, as COPY writes them: an old value then fits
whatever type its column has, or fails by PostgreSQL's own reading of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


@dataclass(frozen=True)
class Column:
    """``added`` is the value that the rows of before got when the column was added again, None where there is none."""

    name: str
    type: str
    generated: bool = False
    added: str | None = None


@dataclass(frozen=True)
class Reference:
    """A foreign key: ``columns`` of the table name a row of ``parent`` by its ``keys``."""

    columns: tuple[str, ...]
    parent: Relation
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table as it is now. ``key`` tells its rows apart: the primary key, else a unique one without NULL."""

    relation: Relation
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    references: tuple[Reference, ...] = ()
    sequences: tuple[tuple[str, str], ...] = ()

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def literal(text: str) -> str:
    """Text as an SQL literal, under standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def temporary(number: int) -> str:
    return f"pg_temp.connectin_lost_{number}"


def create(temp: str, columns: Sequence[str]) -> str:
    fields = ", ".join(f"{names.quote(column)} text" for column in columns)
    return f"CREATE TEMPORARY TABLE {temp.partition('.')[2]} ({fields}) ON COMMIT DROP"


class Merge:
    """Statements for one table. ``dumped`` are the dump's columns; ``others`` are temporary tables by their table, in
    which a row's parent may be when it is not put back yet."""

    def __init__(self, table: Table, dumped: Sequence[str], temp: str, others: Mapping[Relation, str]) -> None:
        self.table = table
        self.temp = temp
        self.others = {**others, table.relation: temp}
        generated = {column.name for column in table.columns if column.generated}
        self.columns = [name for name in dumped if table.column(name) and name not in generated]
        self.gone = [name for name in dumped if not table.column(name)]
        self._name = names.qualified(table.relation)

    @property
    def matchable(self) -> bool:
        return bool(self.table.key) and set(self.table.key) <= set(self.columns)

    def _old(self, name: str, alias: str = "d") -> str:
        column = self.table.column(name)
        assert column is not None
        return f"{alias}.{names.quote(name)}::{column.type}"

    def _same_row(self) -> str:
        if not self.matchable:
            # Without a key only an empty table is sure not to have them.
            return "true"
        return " AND ".join(f"t.{names.quote(name)} = {self._old(name)}" for name in self.table.key)

    def _has_parents(self, references: Sequence[Reference]) -> str:
        checks = []
        for reference in references:
            if not set(reference.columns) <= set(self.columns):
                continue
            pairs = list(zip(reference.columns, reference.keys))
            null = " OR ".join(f"d.{names.quote(column)} IS NULL" for column, _key in pairs)
            there = " AND ".join(f"p.{names.quote(key)} = {self._old(column)}" for column, key in pairs)
            check = f"{null} OR EXISTS (SELECT FROM {names.qualified(reference.parent)} p WHERE {there})"
            other = self.others.get(reference.parent)
            if other:
                dumped = " AND ".join(f"o.{names.quote(key)} = d.{names.quote(column)}" for column, key in pairs)
                check += f" OR EXISTS (SELECT FROM {other} o WHERE {dumped})"
            checks.append(f"({check})")
        return " AND ".join(checks) or "true"

    def count_rows(self) -> str:
        """``dumped``, ``missing``, ``orphans`` (missing, and their parent is gone) and ``taken``: a row with the same
        key has other values."""
        mine = ", ".join(f"t.{names.quote(name)}::text" for name in self.columns)
        old = ", ".join(f"{self._old(name)}::text" for name in self.columns)
        return (
            "SELECT count(*) AS dumped, count(*) FILTER (WHERE missing) AS missing, "
            "count(*) FILTER (WHERE missing AND NOT parents) AS orphans, count(*) FILTER (WHERE taken) AS taken FROM ("
            f"SELECT NOT EXISTS (SELECT FROM {self._name} t WHERE {self._same_row()}) AS missing, "
            f"{self._has_parents(self.table.references)} AS parents, "
            f"EXISTS (SELECT FROM {self._name} t WHERE {self._same_row()} AND ROW({mine}) IS DISTINCT FROM ROW({old})) "
            f"AS taken FROM {self.temp} d) AS counted"
        )

    def insert(self) -> str:
        """Insert the rows that are missing, but for those whose parent is gone or whose unique values are taken."""
        columns = ", ".join(names.quote(name) for name in self.columns)
        values = ", ".join(self._old(name) for name in self.columns)
        return (
            f"INSERT INTO {self._name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {self.temp} d "
            f"WHERE NOT EXISTS (SELECT FROM {self._name} t WHERE {self._same_row()}) "
            f"AND {self._has_parents(self.table.references)} ON CONFLICT DO NOTHING"
        )

    def _free(self, name: str) -> str:
        """The value of now is none that anybody wrote: NULL, or what adding the column gave every row."""
        column = self.table.column(name)
        free = f"t.{names.quote(name)} IS NULL"
        if column and column.added is not None:
            free += f" OR t.{names.quote(name)}::text = {literal(column.added)}"
        return f"({free})"

    def _filled_by(self, name: str) -> str:
        column = names.quote(name)
        old = f"d.{column} IS NOT NULL AND t.{column}::text IS DISTINCT FROM {self._old(name)}::text"
        own = [reference for reference in self.table.references if reference.columns == (name,)]
        return f"{self._same_row()} AND {old} AND {self._has_parents(own)}"

    def count_values(self, name: str) -> str:
        """``free`` values that can be filled, and ``taken`` ones that were written since."""
        return (
            f"SELECT count(*) FILTER (WHERE {self._free(name)}) AS free, "
            f"count(*) FILTER (WHERE NOT {self._free(name)}) AS taken "
            f"FROM {self.temp} d JOIN {self._name} t ON {self._filled_by(name)}"
        )

    def fill(self, name: str) -> str:
        return (
            f"UPDATE {self._name} t SET {names.quote(name)} = {self._old(name)} FROM {self.temp} d "
            f"WHERE {self._filled_by(name)} AND {self._free(name)}"
        )

    def advance(self) -> list[str]:
        """Take each sequence of the table past its largest value."""
        return [
            f"SELECT pg_catalog.setval({literal(sequence)}, newest) FROM "
            f"(SELECT max({names.quote(column)})::bigint AS newest FROM {self._name}) AS used, {sequence} AS at "
            "WHERE newest > at.last_value - (CASE WHEN at.is_called THEN 0 ELSE 1 END)"
            for column, sequence in self.table.sequences
        ]


def parents_first(tables: Sequence[Table]) -> list[Table]:
    """The tables so that each comes after those it refers to; within a circle in the given order."""
    left = list(tables)
    ordered: list[Table] = []
    while left:
        waiting = {table.relation for table in left}
        ready = [
            table
            for table in left
            if not any(
                reference.parent in waiting and reference.parent != table.relation for reference in table.references
            )
        ] or left[:1]
        ordered.extend(ready)
        left = [table for table in left if table not in ready]
    return ordered
