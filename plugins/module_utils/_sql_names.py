# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names in a parse tree, and names put into SQL. Pure."""

from __future__ import annotations

from typing import Any

# (schema or '' when the statement names none, relation)
Relation = tuple[str, str]


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def qualified(relation: Relation) -> str:
    """``"schema"."name"``, or ``"name"`` alone where the search path decides."""
    return f"{quote(relation[0])}.{quote(relation[1])}" if relation[0] else quote(relation[1])


def shown(relation: Relation) -> str:
    """The relation as a reader writes it."""
    return f"{relation[0]}.{relation[1]}" if relation[0] else relation[1]


def of_range(range_var: Any) -> Relation:
    """The relation of a RangeVar node."""
    return (range_var.schemaname or "", range_var.relname)


def of_list(strings: Any) -> Relation:
    """The relation of a list of String nodes, as DROP holds its objects."""
    parts = [part.sval for part in strings]
    return (parts[-2] if len(parts) > 1 else "", parts[-1])


def type_name(node: Any) -> str | None:
    """The last part of a TypeName node: ``int4``, ``Role_new``."""
    names = getattr(node, "names", None)
    return names[-1].sval if names else None
