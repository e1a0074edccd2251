# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a migration only adds, so that the release from before runs on the newer schema. Pure.

Read from PostgreSQL's parse tree of migration.sql. What is not known to be harmless counts as a reason against.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation

# Settings of the session that change no meaning of the statements after them.
HARMLESS_SETTINGS = frozenset(
    ("client_encoding", "client_min_messages", "lock_timeout", "standard_conforming_strings", "statement_timeout")
)
# New objects that no statement of the older release names.
NEW_OBJECTS = frozenset(
    (
        "CompositeTypeStmt",
        "CreateDomainStmt",
        "CreateEnumStmt",
        "CreateExtensionStmt",
        "CreateRangeStmt",
        "CreateSchemaStmt",
    )
    + ("CreateSeqStmt", "CreateTableAsStmt", "CommentStmt", "TransactionStmt")
)
SERIALS = frozenset(("smallserial", "serial", "bigserial", "serial2", "serial4", "serial8"))
WORDS = {
    "AT_AddConstraint": "adds a constraint to",
    "AT_AlterColumnType": "changes the type of a column of",
    "AT_ColumnDefault": "changes a default of",
    "AT_DropColumn": "drops a column of",
    "AT_DropConstraint": "drops a constraint of",
    "AT_DropNotNull": "allows NULL, which the older release cannot read, in",
    "AT_SetNotNull": "forbids NULL, which the older release may write, in",
    "AT_AttachPartition": "attaches a partition to",
    "AT_DetachPartition": "detaches a partition of",
    "AT_EnableRowSecurity": "switches on row security of",
}
STATEMENTS = {
    "AlterDomainStmt": "changes a domain",
    "AlterEnumStmt": "adds a value to the enum {object}, which the older release cannot read",
    "CallStmt": "calls a procedure, whose effect cannot be read",
    "CreateFunctionStmt": "replaces a function",
    "CreateTrigStmt": "adds a trigger to an existing table",
    "DeleteStmt": "deletes rows of {object}",
    "DoStmt": "runs a DO block, whose effect cannot be read",
    "DropStmt": "drops {object}",
    "MergeStmt": "changes rows of {object}",
    "RenameStmt": "renames {object}",
    "RuleStmt": "adds a rule",
    "SelectStmt": "runs a SELECT, whose functions may change something",
    "TruncateStmt": "empties {object}",
    "UpdateStmt": "changes rows of {object}",
    "ViewStmt": "replaces a view",
}


def reasons(tree: Iterable[Any]) -> list[str]:
    """Why the older release might not run on what these statements leave; empty for a migration that only adds."""
    reader = _Reader()
    for statement in tree:
        reader.read(statement)
    return list(dict.fromkeys(reader.reasons))


class _Reader:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.new_tables: set[Relation] = set()
        # Columns that this migration adds to older tables, and of those the ones that stay NULL for the older release.
        self.new_columns: dict[Relation, set[str]] = {}
        self.null_columns: dict[Relation, set[str]] = {}

    def read(self, node: Any) -> None:
        kind = type(node).__name__
        handler = getattr(self, f"_read_{kind}", None)
        if handler:
            handler(node)
        elif kind not in NEW_OBJECTS:
            self._not(kind, node)

    def _not(self, kind: str, node: Any) -> None:
        text = STATEMENTS.get(kind, f"holds a statement that is not known to only add ({kind})")
        self.reasons.append(text.format(object=_object(node)))

    def _is_new(self, table: Relation) -> bool:
        return table in self.new_tables

    def _read_CreateStmt(self, node: Any) -> None:
        table = names.of_range(node.relation)
        if node.partbound or node.inhRelations:
            self.reasons.append(f"makes {names.shown(table)} a part of another table")
        # With IF NOT EXISTS it may be an older table, whose later changes count.
        if not node.if_not_exists:
            self.new_tables.add(table)
        for element in node.tableElts or ():
            kind = type(element).__name__
            if kind == "Constraint":
                self._foreign_key(table, element)
            elif kind == "ColumnDef":
                for constraint in element.constraints or ():
                    self._foreign_key(table, constraint)

    def _foreign_key(self, table: Relation, constraint: Any) -> None:
        """A row of the new table must not keep the older release from deleting a row of an old one."""
        if constraint.contype.name != "CONSTR_FOREIGN":
            return
        parent = names.of_range(constraint.pktable)
        if not self._is_new(parent) and (constraint.fk_del_action or "a") in ("a", "r"):
            self.reasons.append(
                f"rows of {names.shown(table)} keep the older release from deleting rows of {names.shown(parent)} "
                f"(foreign key without ON DELETE CASCADE or SET NULL)"
            )

    def _read_IndexStmt(self, node: Any) -> None:
        table = names.of_range(node.relation)
        if not node.unique or self._is_new(table):
            return
        columns = {element.name for element in node.indexParams or ()}
        # A column that is NULL in every row of the older release makes every row distinct.
        if not (columns & self.null_columns.get(table, set())) or node.nulls_not_distinct:
            self.reasons.append(f"adds a unique index to {names.shown(table)}")

    def _read_AlterTableStmt(self, node: Any) -> None:
        if node.objtype.name != "OBJECT_TABLE":
            self.reasons.append(f"alters {_object(node)}")
            return
        table = names.of_range(node.relation)
        for command in node.cmds:
            kind = command.subtype.name
            if kind == "AT_AddColumn" and not self._is_new(table):
                self._add_column(table, command)
            elif kind in ("AT_AddColumn", "AT_AddConstraint") and (
                self._is_new(table) or kind == "AT_AddConstraint" and self._on_new_columns(table, command.def_)
            ):
                found = [command.def_] if kind == "AT_AddConstraint" else command.def_.constraints or ()
                for constraint in found:
                    self._foreign_key(table, constraint)
            elif not self._is_new(table):
                what = WORDS.get(kind, f"alters ({kind})")
                self.reasons.append(f"{what} {names.shown(table)}")

    def _on_new_columns(self, table: Relation, constraint: Any) -> bool:
        """A foreign key whose columns are new, or a unique one that a NULL of the older release satisfies."""
        if constraint.contype.name == "CONSTR_FOREIGN":
            columns = {column.sval for column in constraint.fk_attrs or ()}
            return bool(columns) and bool(columns & self.null_columns.get(table, set()))
        if constraint.contype.name == "CONSTR_UNIQUE" and not constraint.nulls_not_distinct:
            columns = {column.sval for column in constraint.keys or ()}
            return bool(columns & self.null_columns.get(table, set()))
        return False

    def _add_column(self, table: Relation, command: Any) -> None:
        column = command.def_
        if command.missing_ok:
            self.reasons.append(
                f"adds {column.colname} to {names.shown(table)} only if it is not there: what it is cannot be read"
            )
            return
        kinds = {constraint.contype.name: constraint for constraint in column.constraints or ()}
        serial = names.type_name(column.typeName) in SERIALS
        default = kinds.get("CONSTR_DEFAULT")
        filled = serial or default is not None or bool({"CONSTR_IDENTITY", "CONSTR_GENERATED"} & set(kinds))
        where = f"{names.shown(table)}.{column.colname}"
        if ("CONSTR_NOTNULL" in kinds or "CONSTR_PRIMARY" in kinds) and not filled:
            self.reasons.append(f"adds {where} as NOT NULL without a default, which the older release does not fill")
        self.new_columns.setdefault(table, set()).add(column.colname)
        if not filled:
            self.null_columns.setdefault(table, set()).add(column.colname)
        elif "CONSTR_UNIQUE" in kinds and not (serial or "CONSTR_IDENTITY" in kinds):
            self.reasons.append(f"adds {where} as unique with one default for every row")
        if "CONSTR_CHECK" in kinds:
            self.reasons.append(f"adds {where} with a check, which the older release may not satisfy")
        if "CONSTR_FOREIGN" in kinds:
            self._foreign_key(table, kinds["CONSTR_FOREIGN"])
            if filled:
                self.reasons.append(f"adds {where} as a foreign key that the older release fills with its default")

    def _read_InsertStmt(self, node: Any) -> None:
        table = names.of_range(node.relation)
        if not self._is_new(table):
            self.reasons.append(f"adds rows to {names.shown(table)}")

    def _read_CreateTrigStmt(self, node: Any) -> None:
        if not self._is_new(names.of_range(node.relation)) or node.replace:
            self._not("CreateTrigStmt", node)

    def _read_CreateFunctionStmt(self, node: Any) -> None:
        if node.replace:
            self._not("CreateFunctionStmt", node)

    def _read_ViewStmt(self, node: Any) -> None:
        if node.replace:
            self._not("ViewStmt", node)

    def _read_GrantStmt(self, node: Any) -> None:
        if not node.is_grant:
            self.reasons.append("takes a privilege away")

    def _read_VariableSetStmt(self, node: Any) -> None:
        if node.name not in HARMLESS_SETTINGS:
            self.reasons.append(f"sets {node.name or 'a setting'}, which changes what the statements after it mean")


def _object(node: Any) -> str:
    """What a statement is about, as far as it can be named."""
    relation = getattr(node, "relation", None)
    if relation is not None:
        column = getattr(node, "subname", None)
        return names.shown(names.of_range(relation)) + (f".{column}" if column else "")
    relations = getattr(node, "relations", None)
    if relations:
        return ", ".join(names.shown(names.of_range(each)) for each in relations)
    type_name = getattr(node, "typeName", None)
    if isinstance(type_name, tuple):
        return names.shown(names.of_list(type_name))
    found = []
    for each in getattr(node, "objects", None) or ((node.object,) if getattr(node, "object", None) else ()):
        parts = each if isinstance(each, tuple) else getattr(each, "names", None) or getattr(each, "objname", None)
        found.append(".".join(part.sval for part in parts) if parts else getattr(each, "sval", "an object"))
    return ", ".join(found) or "an object"
