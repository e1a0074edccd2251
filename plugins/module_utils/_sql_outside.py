# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements that PostgreSQL runs only outside a transaction, and which of them can be taken up again. Pure.

Nothing undoes such a statement, so a script that was cut off in the middle is run again from its start. That is safe
for those alone whose effect the catalog shows, or that may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation


@dataclass(frozen=True)
class Outside:
    """What one statement does: ``kind`` is create_index, drop_index or repeatable.

    ``index`` is the index; of create_index, ``table`` is its table and ``on_copy`` the same index on a copy of that
    table in pg_temp, by which the server says how it writes the definition.
    """

    kind: str
    index: Relation = ("", "")
    table: Relation = ("", "")
    on_copy: str = ""


COPY = "connectin_rollback_copy"


def needed(words: tuple[str, ...]) -> bool:
    """Whether a statement, given as its words in capitals, cannot run inside a transaction."""
    if words[0] == "VACUUM" or words[:2] in (("ALTER", "SYSTEM"), ("DISCARD", "ALL")):
        return True
    if words[0] in ("CREATE", "DROP") and words[1:2] in (("DATABASE",), ("TABLESPACE",), ("SUBSCRIPTION",)):
        return True
    if words[0] == "REINDEX" and ("CONCURRENTLY" in words or {"DATABASE", "SYSTEM", "SCHEMA"} & set(words)):
        return True
    if words[0] in ("CREATE", "DROP") and "INDEX" in words[1:3] and "CONCURRENTLY" in words[2:4]:
        return True
    return words[:2] == ("ALTER", "TABLE") and "DETACH" in words and "CONCURRENTLY" in words


def read(node: Any) -> Outside | str:
    """What a statement does, or why it cannot be taken up again when it is cut off."""
    kind = type(node).__name__
    if kind == "IndexStmt":
        table = names.of_range(node.relation)
        if not node.idxname:
            return "gives the index no name, by which it could be found again"
        return Outside("create_index", (table[0], node.idxname), table, _on_copy(node))
    if kind == "DropStmt":
        return Outside("drop_index", names.of_list(node.objects[0]))
    if kind == "VacuumStmt" and node.rels or kind == "ReindexStmt" and node.relation is not None:
        return Outside("repeatable")
    if kind in ("VacuumStmt", "ReindexStmt"):
        return "covers _prisma_migrations, which the rollback itself keeps locked: name the tables"
    return "cannot be taken up again when it is cut off"


def _on_copy(node: Any) -> str:
    """The statement that makes the same index on the copy of its table; the node is as it was afterwards."""
    from pglast.stream import RawStream

    relation, before = node.relation, (node.relation.schemaname, node.relation.relname, node.concurrent)
    try:
        relation.schemaname, relation.relname, node.concurrent = "pg_temp", COPY, False
        return str(RawStream()(node))
    finally:
        relation.schemaname, relation.relname, node.concurrent = before
