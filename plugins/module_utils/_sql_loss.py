# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a down script destroys, and how that is counted. Pure: the counting itself is the database's.

Scripts are read in the order in which they will run, so that a table or column which an earlier statement renamed is
counted under the name it has now. What cannot be read or counted is a loss of unknown size, never none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation

LEDGER = "_prisma_migrations"


@dataclass(frozen=True)
class Loss:
    """One loss.

    ``relation`` is the table as it is called before the rollback, ``column`` limits the count to its values that are
    not NULL, ``where`` to matching rows. Not ``countable``: its size is unknown, unless the table or column is empty.
    ``cascades``: rows of other tables may go with it.
    """

    kind: str
    object: str
    text: str
    relation: Relation | None = None
    column: str = ""
    where: str = ""
    alias: str = ""
    only: bool = False
    countable: bool = True
    cascades: bool = False


def unknown(text: str, object_name: str = "") -> Loss:
    """A loss of which nothing is known but that it may happen."""
    return Loss("unknown", object_name, text, countable=False)


# Statements that destroy no row and no value.
HARMLESS = frozenset(
    [
        "AlterDefaultPrivilegesStmt",
        "AlterDomainStmt",
        "AlterEnumStmt",
        "AlterFunctionStmt",
        "AlterObjectSchemaStmt",
        "AlterOwnerStmt",
        "AlterPolicyStmt",
        "AlterSeqStmt",
        "AlterStatsStmt",
        "ClusterStmt",
        "CommentStmt",
        "CompositeTypeStmt",
        "ConstraintsSetStmt",
        "CreateDomainStmt",
        "CreateEnumStmt",
        "CreateExtensionStmt",
        "CreateFunctionStmt",
        "CreatePolicyStmt",
        "CreateRangeStmt",
        "CreateSchemaStmt",
        "CreateSeqStmt",
        "CreateStatsStmt",
        "CreateStmt",
        "CreateTableAsStmt",
        "CreateTrigStmt",
        "DefineStmt",
        "GrantStmt",
        "IndexStmt",
        "LockStmt",
        "NotifyStmt",
        "RefreshMatViewStmt",
        "ReindexStmt",
        "RenameStmt",
        "RuleStmt",
        "TransactionStmt",
        "VacuumStmt",
        "VariableSetStmt",
        "VariableShowStmt",
        "ViewStmt",
    ]
)
# DROP of these leaves every row where it is, with CASCADE too.
HARMLESS_DROPS = frozenset(
    [
        "OBJECT_INDEX",
        "OBJECT_VIEW",
        "OBJECT_MATVIEW",
        "OBJECT_FUNCTION",
        "OBJECT_PROCEDURE",
        "OBJECT_ROUTINE",
        "OBJECT_AGGREGATE",
        "OBJECT_SEQUENCE",
        "OBJECT_TRIGGER",
        "OBJECT_RULE",
        "OBJECT_POLICY",
        "OBJECT_STATISTIC_EXT",
        "OBJECT_EVENT_TRIGGER",
        "OBJECT_CAST",
        "OBJECT_CONVERSION",
    ]
)
# These may hold tables or columns, which go only with CASCADE.
CONTAINERS = frozenset(("OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_SCHEMA", "OBJECT_EXTENSION", "OBJECT_COLLATION"))
HARMLESS_COMMANDS = frozenset(
    [
        "AT_AddColumn",
        "AT_AddConstraint",
        "AT_AddIndex",
        "AT_AddIdentity",
        "AT_AttachPartition",
        "AT_ChangeOwner",
        "AT_ClusterOn",
        "AT_ColumnDefault",
        "AT_DetachPartition",
        "AT_DisableRowSecurity",
        "AT_DisableTrig",
        "AT_DropConstraint",
        "AT_DropExpression",
        "AT_DropIdentity",
        "AT_DropNotNull",
        "AT_EnableRowSecurity",
        "AT_EnableTrig",
        "AT_ForceRowSecurity",
        "AT_NoForceRowSecurity",
        "AT_ReplicaIdentity",
        "AT_ResetRelOptions",
        "AT_SetAccessMethod",
        "AT_SetCompression",
        "AT_SetIdentity",
        "AT_SetLogged",
        "AT_SetNotNull",
        "AT_SetOptions",
        "AT_SetRelOptions",
        "AT_SetStatistics",
        "AT_SetStorage",
        "AT_SetUnLogged",
        "AT_ValidateConstraint",
        "AT_AlterConstraint",
        "AT_DropCluster",
    ]
)
# Functions without an effect that may stand in a condition; any other makes the condition uncountable.
PURE_FUNCTIONS = frozenset(
    ("abs", "char_length", "coalesce", "date_trunc", "length", "lower", "now", "round", "trim", "btrim", "upper")
)


class Reader:
    """Reads scripts one after the other, in the order in which they will run."""

    def __init__(self, schema: str = "public") -> None:
        # The schema that an unqualified name means, so that both spellings of a table are one.
        self._schema = schema
        # What a table or column is called before the rollback, by the name that statements so far gave it.
        self._tables: dict[Relation, Relation | None] = {}
        self._columns: dict[Relation, dict[str, str]] = {}
        self._added: dict[Relation, set[str]] = {}
        self._enums: set[str] = set()
        self._written: set[Relation] = set()
        self._path_changed = False
        # Tables that a statement updates by name, and that one alters, as they are called before the rollback.
        self.updated: set[Relation] = set()
        self.altered: set[Relation] = set()

    def read(self, tree: Iterable[Any]) -> list[Loss]:
        """The losses of one script."""
        found: list[Loss] = []
        for node in tree:
            kind = type(node).__name__
            handler = getattr(self, f"_read_{kind}", None)
            if handler:
                found.extend(handler(node))
            elif kind not in HARMLESS:
                found.append(unknown(f"what {_words(kind)} destroys cannot be read"))
        # RESET ALL follows every script.
        self._path_changed = False
        return found

    def _key(self, table: Relation) -> Relation:
        return (table[0] or self._schema, table[1])

    def _original(self, table: Relation) -> Relation | None:
        """The table's name before the rollback; None for one that the scripts made."""
        return self._tables.get(self._key(table), table)

    def _column(self, table: Relation, column: str) -> str:
        return self._columns.get(self._key(table), {}).get(column, column)

    def _made(self, table: Relation, column: str) -> bool:
        return column in self._added.get(self._key(table), ())

    def _loss(self, kind: str, table: Relation, text: str, **more: Any) -> list[Loss]:
        if table[1] == LEDGER or self._original(table) is None:
            return []
        original = self._original(table)
        if self._path_changed and not table[0]:
            more["countable"] = False
            original = None
        column = more.pop("column", "")
        name = names.shown(table) + (f".{column}" if column else "")
        before = self._column(table, column) if column else ""
        return [Loss(kind, name, text, relation=original, column=before, **more)]

    def _read_VariableSetStmt(self, node: Any) -> list[Loss]:
        if node.name == "search_path" or node.name == "role":
            self._path_changed = True
        return []

    def _read_CreateStmt(self, node: Any) -> list[Loss]:
        self._makes(node.relation, node.if_not_exists)
        return []

    def _read_CreateTableAsStmt(self, node: Any) -> list[Loss]:
        self._makes(node.into.rel, node.if_not_exists)
        return self._embedded(node.query)

    def _makes(self, relation: Any, if_not_exists: bool) -> None:
        """A table that is new here. A temporary one hides nothing: what is done to its name counts as done to the real
        table of that name."""
        if not if_not_exists and relation.relpersistence != "t" and relation.schemaname != "pg_temp":
            self._tables[self._key(names.of_range(relation))] = None

    def _changes(self, known: set[Relation], table: Relation) -> None:
        original = self._original(table)
        if original is not None:
            known.add(original)

    def _read_CreateEnumStmt(self, node: Any) -> list[Loss]:
        self._enums.add(node.typeName[-1].sval)
        return []

    def _read_RenameStmt(self, node: Any) -> list[Loss]:
        if node.relation is None:
            if node.renameType.name == "OBJECT_SCHEMA":
                self._path_changed = True
            return []
        table = names.of_range(node.relation)
        if node.renameType.name == "OBJECT_TABLE":
            self._moves(table, (table[0], node.newname))
        elif node.renameType.name == "OBJECT_COLUMN":
            self._columns.setdefault(self._key(table), {})[node.newname] = self._column(table, node.subname)
            added = self._added.setdefault(self._key(table), set())
            if node.subname in added:
                added.discard(node.subname)
                added.add(node.newname)
            else:
                added.discard(node.newname)
        return []

    def _read_AlterObjectSchemaStmt(self, node: Any) -> list[Loss]:
        if node.relation is not None:
            table = names.of_range(node.relation)
            self._moves(table, (node.newschema, table[1]))
        return []

    def _moves(self, table: Relation, new: Relation) -> None:
        """A table is called something else from here on; one of its old name later on is another one."""
        self._tables[self._key(new)] = self._original(table)
        for known in (self._columns, self._added):
            if self._key(table) in known:
                known[self._key(new)] = known.pop(self._key(table))
        self._tables[self._key(table)] = None

    def _read_DropStmt(self, node: Any) -> list[Loss]:
        kind = node.removeType.name
        if kind == "OBJECT_TABLE":
            found: list[Loss] = []
            for each in node.objects:
                table = names.of_list(each)
                found.extend(self._loss("drop_table", table, f"drops the table {names.shown(table)}"))
                self._tables[self._key(table)] = None
            return found
        if kind in HARMLESS_DROPS or kind in CONTAINERS and node.behavior.name != "DROP_CASCADE":
            return []
        what = kind.replace("OBJECT_", "").lower().replace("_", " ")
        if kind in CONTAINERS:
            return [unknown(f"drops a {what} with everything in it or of it (CASCADE)")]
        return [unknown(f"drops a {what}")]

    def _read_TruncateStmt(self, node: Any) -> list[Loss]:
        found: list[Loss] = []
        for each in node.relations:
            table = names.of_range(each)
            found.extend(self._loss("truncate", table, f"empties the table {names.shown(table)}", only=not each.inh))
        if node.behavior.name == "DROP_CASCADE":
            found.append(unknown("TRUNCATE ... CASCADE empties every table that refers to these"))
        return found

    def _read_AlterTableStmt(self, node: Any) -> list[Loss]:
        table = names.of_range(node.relation)
        if node.objtype.name not in ("OBJECT_TABLE", "OBJECT_TYPE"):
            return []
        found: list[Loss] = []
        self._changes(self.altered, table)
        for command in node.cmds:
            kind = command.subtype.name
            column = command.name or ""
            where = f"{names.shown(table)}.{column}"
            if kind == "AT_AddColumn":
                if not command.missing_ok:
                    self._added.setdefault(self._key(table), set()).add(command.def_.colname)
            elif kind == "AT_DropColumn" and node.objtype.name == "OBJECT_TABLE":
                if not self._made(table, column):
                    found.extend(self._loss("drop_column", table, f"drops the column {where}", column=column))
                # A column of that name added after this is another one.
                self._added.setdefault(self._key(table), set()).discard(column)
            elif kind == "AT_AlterColumnType" and node.objtype.name == "OBJECT_TABLE":
                if not self._made(table, column) and not self._rebuilds_enum(column, command.def_):
                    text = f"changes the type of {where}; which of its values that changes is unknown"
                    found.extend(self._loss("narrow", table, text, column=column, countable=False))
            elif kind not in HARMLESS_COMMANDS:
                found.append(unknown(f"changes {names.shown(table)} ({kind[3:]})", names.shown(table)))
        return found

    def _rebuilds_enum(self, column: str, definition: Any) -> bool:
        """``USING (c::text::new_enum)``, as Prisma writes it: every value stays what it is, or the statement fails."""
        using = definition.raw_default
        if names.type_name(definition.typeName) not in self._enums or type(using).__name__ != "TypeCast":
            return False
        inner = using.arg
        if names.type_name(using.typeName) not in self._enums or type(inner).__name__ != "TypeCast":
            return False
        source = inner.arg
        return (
            names.type_name(inner.typeName) == "text"
            and type(source).__name__ == "ColumnRef"
            and getattr(source.fields[-1], "sval", None) == column
        )

    def _read_DeleteStmt(self, node: Any) -> list[Loss]:
        table = names.of_range(node.relation)
        found = self._loss(
            "delete",
            table,
            f"deletes rows of {names.shown(table)}",
            cascades=True,
            **self._condition(node, node.usingClause),
        )
        self._written.add(self._key(table))
        return found + self._embedded(node)

    def _read_UpdateStmt(self, node: Any) -> list[Loss]:
        table = names.of_range(node.relation)
        columns = [target.name for target in node.targetList]
        self._changes(self.updated, table)
        found: list[Loss] = []
        if not all(self._made(table, column) for column in columns):
            text = f"overwrites {', '.join(columns)} of {names.shown(table)}"
            found = self._loss("update", table, text, **self._condition(node, node.fromClause))
        self._written.add(self._key(table))
        return found + self._embedded(node)

    def _condition(self, node: Any, others: Any) -> dict[str, Any]:
        """How the rows of an UPDATE or DELETE are counted; uncountable when an earlier statement changes what
        matches."""
        table = names.of_range(node.relation)
        more: dict[str, Any] = {"only": not node.relation.inh}
        if node.relation.alias:
            more["alias"] = node.relation.alias.aliasname
        if node.whereClause is None:
            return more
        renamed = bool(self._tables or self._columns or self._added)
        if others or renamed or self._key(table) in self._written or not _pure(node.whereClause):
            return {**more, "countable": False}
        return {**more, "where": _deparse(node.whereClause)}

    def _read_InsertStmt(self, node: Any) -> list[Loss]:
        table = names.of_range(node.relation)
        self._written.add(self._key(table))
        found = self._embedded(node)
        if node.onConflictClause is not None and node.onConflictClause.action.name == "ONCONFLICT_UPDATE":
            self._changes(self.updated, table)
            found.extend(self._loss("update", table, f"overwrites rows of {names.shown(table)}", countable=False))
        return found

    def _read_SelectStmt(self, node: Any) -> list[Loss]:
        if node.intoClause is not None:
            self._makes(node.intoClause.rel, False)
        return self._embedded(node)

    def _embedded(self, node: Any) -> list[Loss]:
        """Functions and data-modifying WITH parts inside a statement that look harmless from outside."""
        found: list[Loss] = []
        for inner in _walk(node):
            kind = type(inner).__name__
            if inner is not node and kind in ("DeleteStmt", "UpdateStmt", "InsertStmt", "MergeStmt"):
                found.append(unknown("a WITH part changes data"))
            elif kind == "FuncCall" and inner.funcname[-1].sval not in PURE_FUNCTIONS | {
                "count",
                "max",
                "min",
                "sum",
                "gen_random_uuid",
            }:
                if inner.funcname[-1].sval == "set_config":
                    self._path_changed = True
                elif inner.funcname[-1].sval not in (
                    "setval",
                    "nextval",
                    "currval",
                    "concat",
                    "substring",
                    "replace",
                    "split_part",
                ):
                    found.append(unknown(f"calls {inner.funcname[-1].sval}(), whose effect cannot be read"))
        return found


def _walk(node: Any) -> Iterable[Any]:
    """Every node of a tree."""
    if isinstance(node, tuple):
        for each in node:
            yield from _walk(each)
    elif hasattr(node, "__slots__") and type(node).__module__.startswith("pglast"):
        yield node
        for attribute in node:
            yield from _walk(getattr(node, attribute, None))


def _pure(condition: Any) -> bool:
    return all(
        inner.funcname[-1].sval in PURE_FUNCTIONS for inner in _walk(condition) if type(inner).__name__ == "FuncCall"
    ) and not any(type(inner).__name__ == "SubLink" for inner in _walk(condition))


def _deparse(condition: Any) -> str:
    from pglast.stream import RawStream

    return RawStream()(condition)


def _words(kind: str) -> str:
    return {"DoStmt": "a DO block", "CallStmt": "a CALL", "MergeStmt": "a MERGE"}.get(
        kind, f"a statement of kind {kind}"
    )
