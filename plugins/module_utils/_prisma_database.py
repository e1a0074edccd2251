# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the database itself says: where the history is, who holds Prisma's lock, who is connected, what would be lost.

Every name is schema-qualified: a script may have changed the search path or made a temporary table of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_loss
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database, DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import COLUMNS, Row

# The key of `prisma migrate`: taking it is the only way to exclude a deploy.
LOCK = 72707369
TABLE = "_prisma_migrations"
# Counting is for information before the rollback; a table too large to be counted in this time is of unknown size.
COUNT_TIMEOUT = "60s"


@dataclass(frozen=True)
class Place:
    """Where the history is. ``layout`` is prisma-migrate, prisma-next or none; ``search_path`` '' is the role's own."""

    initialized: bool
    schema: str
    layout: str
    search_path: str
    current_schema: str
    database: str
    server_version: str
    standby: bool

    @property
    def table(self) -> str:
        return names.qualified((self.schema, TABLE))


def locate(database: Database, wanted: str) -> Place:
    """Find the history: in the schema that is named, else in the URL's, else in the one schema that has it."""
    facts = database.execute(
        "SELECT pg_catalog.current_database() AS database, pg_catalog.current_setting('server_version') AS version, "
        "pg_catalog.version() AS full_version, pg_catalog.pg_is_in_recovery() AS standby, "
        "COALESCE(pg_catalog.current_schema(), '') AS current_schema"
    )[0]
    if "CockroachDB" in facts["full_version"]:
        raise PrismaError(
            "This is CockroachDB, which lacks the lock that keeps `prisma migrate deploy` out. Not supported."
        )
    named = wanted or database.target.schema
    rows = database.execute(
        "SELECT n.nspname, array_agg(a.attname::text) AS columns FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' "
        "AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema' GROUP BY n.nspname ORDER BY n.nspname",
        [TABLE],
    )
    found = {row["nspname"]: set(row["columns"]) for row in rows}
    schema = named
    if not named and len(found) > 1:
        raise PrismaError(
            f"{TABLE} is in several schemas of {facts['database']}: {', '.join(found)}. Say which one with schema."
        )
    if not named and found:
        schema = next(iter(found))
    initialized = schema in found
    if initialized and not set(COLUMNS) <= found[schema]:
        missing = ", ".join(sorted(set(COLUMNS) - found[schema]))
        raise PrismaError(f"{schema}.{TABLE} is not Prisma's table: it lacks {missing}.")
    next_layout = database.value("SELECT to_regclass('prisma_contract.marker') IS NOT NULL")
    layout = "prisma-next" if next_layout else "prisma-migrate" if initialized else "none"
    return Place(
        initialized=initialized,
        schema=schema,
        layout=layout,
        # Prisma sets the path only for a schema that the URL names.
        search_path=named,
        current_schema=named or facts["current_schema"] or "public",
        database=facts["database"],
        server_version=facts["version"],
        standby=facts["standby"],
    )


def require_history(place: Place) -> None:
    """Refuse what is no database of Prisma Migrate."""
    if place.layout == "prisma-next":
        raise PrismaError(
            f"{place.database} is managed by Prisma Next (schema prisma_contract), which has no down migrations. "
            "Plan a rollback edge with its own tool."
        )
    if not place.initialized:
        where = f"schema {place.schema}" if place.schema else "any schema"
        raise PrismaError(
            f"{TABLE} is not in {where} of {place.database}: Prisma never migrated it, or DATABASE_URL names another "
            f"database "
            "or schema. Compare it with the application's, and set schema if they differ."
        )
    if place.standby:
        raise PrismaError(f"{place.database} is on a standby, which cannot be written. Give the URL of the primary.")


def read_rows(database: Database, place: Place) -> list[Row]:
    """Every row of the history, in Prisma's own order."""
    columns = ", ".join(names.quote(column) for column in COLUMNS)
    found = database.execute(f"SELECT {columns} FROM {place.table} ORDER BY started_at, migration_name, id")
    return [Row(**row) for row in found]


def sessions(database: Database) -> list[dict[str, Any]]:
    """The other clients of this database. Those of other roles show without details unless the role may see them."""
    return database.execute(
        "SELECT pid, application_name, COALESCE(host(client_addr), '') AS client_addr, COALESCE(state, '') AS state, "
        "COALESCE(usename, '')::text AS user FROM pg_catalog.pg_stat_activity "
        "WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() "
        # Without the privilege to see another role's session its type is NULL, but it is there.
        "AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL) ORDER BY pid"
    )


def session_text(session: dict[str, Any]) -> str:
    """``pid 4711 (api, connectin@10.0.0.4, idle)``."""
    who = f"{session['user']}@{session['client_addr'] or 'local'}"
    about = ", ".join(part for part in (session["application_name"], who, session["state"]) if part)
    return f"pid {session['pid']} ({about})"


def lock_holders(database: Database) -> list[dict[str, Any]]:
    """Who holds Prisma's lock in this database."""
    return database.execute(
        "SELECT l.pid, COALESCE(a.application_name, '') AS application_name, COALESCE(host(a.client_addr), '') AS "
        "client_addr, "
        "COALESCE(a.state, '') AS state, COALESCE(a.usename, '')::text AS user, COALESCE(a.xact_start::text, '') AS "
        "since "
        "FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() "
        "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
        f"AND l.classid = 0 AND l.objid = {LOCK} AND l.objsubid = 1 ORDER BY l.pid"
    )


def lock_waiters(database: Database) -> list[int]:
    """The processes that queue behind us for Prisma's lock."""
    return [
        row["pid"]
        for row in database.execute(
            "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 0 "
            f"AND objid = {LOCK} AND objsubid = 1 AND pid <> pg_catalog.pg_backend_pid() "
            "AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
            "ORDER BY pid"
        )
    ]


def set_search_path(database: Database, place: Place) -> None:
    """The path on which the scripts' unqualified names are found, as Prisma sets it."""
    if place.search_path:
        database.run(f"SET LOCAL search_path = {names.quote(place.search_path)}")


@contextmanager
def _undone(database: Database) -> Iterator[None]:
    """Run in a savepoint or a read-only transaction of its own, undone either way: settings do not outlive it."""
    inside = database.in_transaction
    database.run("SAVEPOINT connectin_count" if inside else "BEGIN READ ONLY")
    try:
        yield
    finally:
        if database.alive:
            if inside:
                database.run("ROLLBACK TO SAVEPOINT connectin_count")
                database.run("RELEASE SAVEPOINT connectin_count")
            else:
                database.rollback()


def count(database: Database, place: Place, losses: Sequence[_sql_loss.Loss]) -> list[dict[str, Any]]:
    """The losses that are real: each with ``count``, None where nobody can know. Empty tables and columns are no
    loss."""
    found: list[dict[str, Any]] = []
    for loss in losses:
        number, why = _count(database, place, loss)
        if number == 0:
            continue
        text = loss.text
        if number is not None:
            text += f": {number} {'value' if loss.column else 'row'}{'' if number == 1 else 's'}"
        elif why:
            text += f" (not counted: {why})"
        found.append({"kind": loss.kind, "object": loss.object, "count": number, "text": text})
        if loss.cascades:
            found.extend(_cascades(database, place, loss))
    return found


def _count(database: Database, place: Place, loss: _sql_loss.Loss) -> tuple[int | None, str]:
    if loss.relation is None:
        return None, ""
    table = names.qualified(loss.relation)
    try:
        with _undone(database):
            set_search_path(database, place)
            # Row security would hide rows from the count instead of failing it.
            database.run("SET LOCAL row_security = off")
            database.run(f"SET LOCAL statement_timeout = '{COUNT_TIMEOUT}'")
            database.run("SET LOCAL lock_timeout = '5s'")
            if database.value("SELECT to_regclass(%s) IS NULL", [table]):
                return 0, ""
            if loss.column and not database.value(
                "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s "
                "AND NOT attisdropped",
                [table, loss.column],
            ):
                return 0, ""
            what = f"count({names.quote(loss.column)})" if loss.column else "count(*)"
            source = ("ONLY " if loss.only else "") + table + (f" AS {names.quote(loss.alias)}" if loss.alias else "")
            number = database.value(f"SELECT {what} FROM {source}" + (f" WHERE {loss.where}" if loss.where else ""))
    except DatabaseError as error:
        if error.lost:
            raise
        return None, error.message
    # An empty table loses nothing, whatever is done to it.
    return (number, "") if loss.countable or number == 0 else (None, "")


def _cascades(database: Database, place: Place, loss: _sql_loss.Loss) -> list[dict[str, Any]]:
    """Tables whose rows a DELETE takes along, or changes, through foreign keys."""
    if loss.relation is None:
        return []
    with _undone(database):
        set_search_path(database, place)
        rows = database.execute(
            "SELECT conrelid::regclass::text AS child FROM pg_catalog.pg_constraint WHERE contype = 'f' "
            "AND confrelid = to_regclass(%s) AND confdeltype IN ('c', 'n', 'd') ORDER BY 1",
            [names.qualified(loss.relation)],
        )
    return [
        {
            "kind": "delete",
            "object": row["child"],
            "count": None,
            "text": f"rows of {row['child']} go or change with them",
        }
        for row in rows
    ]
