# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a backup asks of the database: its tables, where writing stands, and rows put in by COPY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _backup_merge as merging
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_database as reading
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_database import Place
from ansible_collections.connectin.rollback.plugins.module_utils._sql_names import Relation

# The tables whose rows pg_dump takes: no system's, no temporary one, none that belongs to an extension.
_TABLES = (
    "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' "
    "AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' "
    "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::regclass "
    "AND e.objid = c.oid AND e.deptype = 'e')"
)


class Connection(Database):
    """A connection that can also take rows."""

    def copy_in(self, table: str, columns: Sequence[str], lines: Iterator[bytes]) -> None:
        """Put lines in COPY's text format into a table."""
        fields = ", ".join(names.quote(column) for column in columns)
        sql = f"COPY {table} ({fields}) FROM STDIN"
        cursor = self._raw.cursor()
        try:
            if self._major == 3:
                with cursor.copy(sql) as copy:
                    for line in lines:
                        copy.write(line)
            else:
                cursor.copy_expert(sql, _Lines(lines))
        except self._module.Error as error:
            raise self._translate(error, sql) from None
        finally:
            cursor.close()


class _Lines:
    """Lines as a file, as psycopg2 reads one."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def read(self, _size: int = -1) -> bytes:
        return next(self._lines, b"")


def server_major(database: Database) -> int:
    return int(database.value("SELECT pg_catalog.current_setting('server_version_num')")) // 10000


def position(database: Database) -> int:
    """The next transaction that writes, anywhere in the server, gets this number."""
    return int(database.value("SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())::text"))


def oid(database: Database) -> int:
    return int(
        database.value("SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()")
    )


def tables(database: Database) -> list[Relation]:
    rows = database.execute(f"SELECT n.nspname::text AS schema, c.relname::text AS name {_TABLES} ORDER BY 1, 2")
    return [(row["schema"], row["name"]) for row in rows]


def schemas(database: Database) -> list[str]:
    return [row["name"] for row in database.execute("SELECT nspname::text AS name FROM pg_catalog.pg_namespace")]


def size(database: Database) -> tuple[int, list[str]]:
    """The bytes of all tables without their indexes, and the tables that may not be read."""
    rows = database.execute(
        "SELECT n.nspname || '.' || c.relname AS name, pg_catalog.pg_table_size(c.oid) AS bytes, "
        "pg_catalog.has_table_privilege(c.oid, 'SELECT') "
        "AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS readable "
        f"{_TABLES} ORDER BY 1"
    )
    objects = int(database.value("SELECT pg_catalog.pg_table_size('pg_catalog.pg_largeobject')"))
    return objects + sum(row["bytes"] or 0 for row in rows), [row["name"] for row in rows if not row["readable"]]


def count(database: Database, relations: Sequence[Relation]) -> dict[Relation, int]:
    """The rows of each table, those of its children apart."""
    found: dict[Relation, int] = {}
    # One query for all would lock them all at once and tell no table when it fails.
    for relation in relations:
        found[relation] = database.value(f"SELECT count(*) FROM ONLY {names.qualified(relation)}")
    return found


def migrations(database: Database, place: Place) -> list[dict[str, Any]]:
    """The history's rows, so that a restore can be held to them."""
    if not place.initialized:
        return []
    return [
        {
            "id": row.id,
            "name": row.migration_name,
            "finished": row.finished_at is not None,
            "rolled_back": row.rolled_back_at is not None,
        }
        for row in reading.read_rows(database, place)
    ]


def resolve(
    database: Database, place: Place, losses: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[Relation] | None]:
    """The losses with the table that each is of now, and the tables to dump; None where that is not known of one.

    Partitions and children are dumped with their table. The names are read on the path on which the scripts run.
    """
    asked = [str(loss.get("relation") or "") for loss in losses]
    with reading.undone(database, place):
        rows = database.execute(
            "WITH RECURSIVE asked AS (SELECT n::int, to_regclass(relation) AS oid FROM unnest(%s::text[]) "
            "WITH ORDINALITY AS given (relation, n) WHERE relation <> ''), "
            "family (n, oid, own) AS (SELECT n, oid::oid, true FROM asked WHERE oid IS NOT NULL UNION "
            "SELECT f.n, i.inhrelid, false FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid) "
            "SELECT f.n, f.own, s.nspname::text AS schema, c.relname::text AS name, c.relkind = 'r' AS rows "
            "FROM family f JOIN pg_catalog.pg_class c ON c.oid = f.oid "
            "JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace ORDER BY 1, 2 DESC, 3, 4",
            [asked],
        )
    resolved = []
    chosen: set[Relation] = set()
    known = True
    for at, loss in enumerate(losses, 1):
        family = [row for row in rows if row["n"] == at]
        known = known and bool(family)
        chosen.update((row["schema"], row["name"]) for row in family)
        # A partitioned table's rows are in its partitions: each of them lost some.
        for row in [row for row in family if row["rows"]] or [{"schema": "", "name": ""}]:
            resolved.append(
                {
                    "kind": loss.get("kind") or "unknown",
                    "schema": row["schema"],
                    "table": row["name"],
                    "column": loss.get("column") or "",
                    "count": loss.get("count"),
                    "text": loss.get("text") or "a loss of which nothing is known",
                }
            )
    return resolved, sorted(chosen) if known and chosen else None


def describe(database: Database, relation: Relation) -> merging.Table | None:
    """The table as it is now, None when it is not there."""
    columns = database.execute(
        "SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, -1) AS type, a.attgenerated <> '' AS "
        "generated, CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END AS added, "
        "pg_catalog.pg_get_serial_sequence(%s, a.attname) AS sequence FROM pg_catalog.pg_attribute a "
        "WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        [names.qualified(relation), names.qualified(relation)],
    )
    if not columns:
        return None
    keys = database.execute(
        "SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, at) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns FROM pg_catalog.pg_index i "
        "WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indisvalid AND i.indimmediate "
        "AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) k "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k WHERE NOT a.attnotnull) "
        "ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1",
        [names.qualified(relation)],
    )
    references = database.execute(
        "SELECT n.nspname::text AS schema, c.relname::text AS name, "
        "ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, at) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.at) AS columns, "
        "ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k (attnum, at) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.at) AS keys "
        "FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_class c ON c.oid = f.confrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE f.contype = 'f' AND f.conrelid = to_regclass(%s) ORDER BY f.conname",
        [names.qualified(relation)],
    )
    return merging.Table(
        relation=relation,
        columns=tuple(merging.Column(row["name"], row["type"], row["generated"], row["added"]) for row in columns),
        key=tuple(keys[0]["columns"]) if keys else (),
        references=tuple(
            merging.Reference(tuple(row["columns"]), (row["schema"], row["name"]), tuple(row["keys"]))
            for row in references
        ),
        sequences=tuple((row["name"], row["sequence"]) for row in columns if row["sequence"]),
    )
