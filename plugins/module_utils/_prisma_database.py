# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the database itself says: where the history is, who holds Prisma's lock, who is connected, what would be lost.

Every name is schema-qualified: a script may have changed the search path or made a temporary table of the same name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database, DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import COLUMNS, Row
from ansible_collections.connectin.rollback.plugins.module_utils._sql_loss import Loss

# The key of `prisma migrate`: taking it is the only way to exclude a deploy.
LOCK = 72707369
TABLE = "_prisma_migrations"
# Counting is for information before the rollback; a table too large to be counted in this time is of unknown size.
COUNT_SECONDS = 60.0


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

    @property
    def table_beside_parameters(self) -> str:
        """The same for a statement with ``%s`` in it, where a % of the schema's name is doubled."""
        return self.table.replace("%", "%%")


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
    if session.get("shared"):
        about = "left by another client on a pooler's connection; give the direct URL"
    return f"pid {session['pid']} ({about})"


# Who has the lock, in this database.
_LOCK_ROWS = (
    "FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
    f"AND l.classid = 0 AND l.objid = {LOCK} AND l.objsubid = 1"
)


def try_lock(database: Database) -> bool:
    """Take Prisma's lock for the transaction under way.

    A deploy that went through the same pooler may have left it on the very connection that is ours now, and PostgreSQL
    would give it to us a second time.
    """
    return bool(
        database.value(
            f"SELECT CASE WHEN EXISTS (SELECT {_LOCK_ROWS} AND l.pid = pg_catalog.pg_backend_pid()) THEN false "
            f"ELSE pg_catalog.pg_try_advisory_xact_lock({LOCK}) END"
        )
    )


def lock_holders(database: Database) -> list[dict[str, Any]]:
    """Who holds Prisma's lock in this database; ``shared`` is a connection that a pooler gave us as well."""
    return database.execute(
        "SELECT held.pid, held.pid = pg_catalog.pg_backend_pid() AS shared, "
        "COALESCE(a.application_name, '') AS application_name, COALESCE(host(a.client_addr), '') AS client_addr, "
        "COALESCE(a.state, '') AS state, COALESCE(a.usename, '')::text AS user, "
        f"COALESCE(a.xact_start::text, '') AS since FROM (SELECT l.pid {_LOCK_ROWS}) AS held "
        "LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = held.pid ORDER BY held.pid"
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
def undone(database: Database, place: Place, seconds: float = COUNT_SECONDS) -> Iterator[None]:
    """Run in a savepoint or a read-only transaction of its own, undone either way: settings do not outlive it.

    The names are those of the scripts, and row security hides no row: it fails the query instead.
    """
    inside = database.in_transaction
    database.run("SAVEPOINT connectin_count" if inside else "BEGIN READ ONLY")
    try:
        set_search_path(database, place)
        # A plan waits for nobody, and after its first count a real run has locked the tables.
        database.execute(
            "SELECT pg_catalog.set_config('row_security', 'off', true), "
            "pg_catalog.set_config('lock_timeout', %s, true), "
            "pg_catalog.set_config('statement_timeout', %s, true)",
            ["200ms" if inside else "5s", str(int(seconds * 1000))],
        )
        yield
    finally:
        if database.alive:
            if inside:
                database.run("ROLLBACK TO SAVEPOINT connectin_count")
                database.run("RELEASE SAVEPOINT connectin_count")
            else:
                database.rollback()


def count(database: Database, place: Place, losses: Mapping[str, Sequence[Loss]]) -> dict[str, list[dict[str, Any]]]:
    """The losses that are real, by migration: each with ``count``, None where nobody can know.

    Empty tables and columns are no loss. The number of queries does not depend on the number of losses.
    """
    every = [loss for found in losses.values() for loss in found]
    numbers = _numbers(database, place, [loss for loss in every if loss.relation is not None])
    children = _children(database, place, [loss for loss in every if loss.cascades and loss.relation is not None])
    counted: dict[str, list[dict[str, Any]]] = {}
    for name, found in losses.items():
        entries: list[dict[str, Any]] = []
        for loss in found:
            number, why = numbers.get(loss, (None, ""))
            if number == 0:
                continue
            entries.append(_entry(loss, number if loss.countable else None, why))
            entries.extend(
                {
                    "kind": "delete",
                    "object": child,
                    "relation": child,
                    "column": "",
                    "count": None,
                    "text": f"rows of {child} go or change with them",
                }
                for child in children.get(loss.relation or ("", ""), ())
                if loss.cascades
            )
        counted[name] = entries
    return counted


def _entry(loss: Loss, number: int | None, why: str) -> dict[str, Any]:
    text = loss.text
    if number is not None:
        text += f": {number} {'value' if loss.column else 'row'}{'' if number == 1 else 's'}"
    elif why:
        text += f" (not counted: {why})"
    return {
        "kind": loss.kind,
        "object": loss.object,
        "relation": names.qualified(loss.relation) if loss.relation else "",
        "column": loss.column,
        "count": number,
        "text": text,
    }


def _numbers(database: Database, place: Place, losses: Sequence[Loss]) -> dict[Loss, tuple[int | None, str]]:
    """How many rows or values each loss takes, 0 where its table or column is not there; None with the reason."""
    if not losses:
        return {}
    deadline = time.monotonic() + COUNT_SECONDS
    there = _there(database, place, losses)
    numbers: dict[Loss, tuple[int | None, str]] = {loss: (0, "") for loss in losses if loss not in there}
    try:
        # A table that cannot be read fails them all, so they are asked one by one then.
        numbers.update((loss, (number, "")) for loss, number in _counted(database, place, there, deadline).items())
    except DatabaseError as error:
        if error.lost:
            raise
        for loss in there:
            if time.monotonic() >= deadline:
                numbers[loss] = (None, f"counting took more than {COUNT_SECONDS:g} s")
                continue
            try:
                numbers[loss] = (_counted(database, place, [loss], deadline)[loss], "")
            except DatabaseError as single:
                if single.lost:
                    raise
                numbers[loss] = (None, single.message)
    return numbers


def _there(database: Database, place: Place, losses: Sequence[Loss]) -> list[Loss]:
    """The losses whose table, and column where one is meant, exist now."""
    with undone(database, place):
        rows = database.execute(
            "SELECT n::int FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS asked (relation, attribute, n) "
            "WHERE to_regclass(relation) IS NOT NULL AND (attribute = '' OR EXISTS (SELECT FROM "
            "pg_catalog.pg_attribute WHERE attrelid = to_regclass(relation) AND attname = attribute "
            "AND NOT attisdropped)) ORDER BY n",
            [[names.qualified(loss.relation or ("", "")) for loss in losses], [loss.column for loss in losses]],
        )
    return [losses[row["n"] - 1] for row in rows]


def _counted(database: Database, place: Place, losses: Sequence[Loss], deadline: float) -> dict[Loss, int]:
    queries = []
    for at, loss in enumerate(losses):
        what = f"count({names.quote(loss.column)})" if loss.column else "count(*)"
        source = ("ONLY " if loss.only else "") + names.qualified(loss.relation or ("", ""))
        source += f" AS {names.quote(loss.alias)}" if loss.alias else ""
        condition = f" WHERE {loss.where}" if loss.where else ""
        queries.append(f"SELECT {at} AS at, {what} AS number FROM {source}{condition}")
    if not queries:
        return {}
    with undone(database, place, max(1.0, deadline - time.monotonic())):
        rows = database.execute("SELECT at, number FROM (" + " UNION ALL ".join(queries) + ") AS counted")
    return {losses[row["at"]]: row["number"] for row in rows}


def family(database: Database, place: Place, relations: Sequence[names.Relation]) -> dict[names.Relation, list[int]]:
    """The oids of tables by the names that scripts give them, each with its partitions and other children."""
    if not relations:
        return {}
    with undone(database, place):
        rows = database.execute(
            "WITH RECURSIVE tree (n, oid) AS (SELECT n, to_regclass(relation)::oid FROM unnest(%s::text[]) WITH "
            "ORDINALITY AS asked (relation, n) WHERE to_regclass(relation) IS NOT NULL UNION SELECT tree.n, i.inhrelid "
            "FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid) "
            "SELECT n::int, oid::bigint AS oid FROM tree",
            [[names.qualified(relation) for relation in relations]],
        )
    found: dict[names.Relation, list[int]] = {}
    for row in rows:
        found.setdefault(relations[row["n"] - 1], []).append(row["oid"])
    return found


def outside(database: Database, place: Place, relations: Sequence[str], oids: set[int]) -> set[str]:
    """Those of the tables, written as in SQL, of which not all rows are in the tables with these oids."""
    if not relations:
        return set()
    with undone(database, place):
        rows = database.execute(
            "WITH RECURSIVE tree (relation, oid) AS (SELECT relation, to_regclass(relation)::oid "
            "FROM unnest(%s::text[]) AS asked (relation) WHERE relation <> '' UNION SELECT tree.relation, i.inhrelid "
            "FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid) "
            "SELECT DISTINCT tree.relation FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid "
            "AND c.relkind = 'r' WHERE c.oid::bigint <> ALL(%s::bigint[])",
            [list(relations), sorted(oids)],
        )
    return {row["relation"] for row in rows}


def shape(database: Database, place: Place) -> dict[str, Any] | None:
    """What decides what a write to the history does: the table itself, its triggers, rules and policies."""
    found = database.execute(
        "SELECT c.oid::bigint AS oid, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity, "
        "ARRAY(SELECT t.oid::bigint FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid ORDER BY 1) AS triggers, "
        "ARRAY(SELECT t.tgenabled::text FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid ORDER BY t.oid) "
        "AS enabled, "
        "ARRAY(SELECT r.oid::bigint FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid ORDER BY 1) AS rules, "
        "ARRAY(SELECT p.oid::bigint FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid ORDER BY 1) AS policies, "
        "ARRAY(SELECT a.attname::text || ' ' || a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid "
        "AND a.attnum > 0 ORDER BY a.attnum) AS columns "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = %s AND n.nspname = %s",
        [TABLE, place.schema],
    )
    return found[0] if found else None


def _children(database: Database, place: Place, losses: Sequence[Loss]) -> dict[names.Relation, list[str]]:
    """Tables whose rows a DELETE takes along, or changes, through foreign keys."""
    relations = sorted({loss.relation for loss in losses if loss.relation is not None})
    if not relations:
        return {}
    with undone(database, place):
        rows = database.execute(
            "SELECT n::int, conrelid::regclass::text AS child FROM unnest(%s::text[]) WITH ORDINALITY AS asked "
            "(relation, n) JOIN pg_catalog.pg_constraint ON confrelid = to_regclass(relation) AND contype = 'f' "
            "AND confdeltype IN ('c', 'n', 'd') ORDER BY 1, 2",
            [[names.qualified(relation) for relation in relations]],
        )
    found: dict[names.Relation, list[str]] = {}
    for row in rows:
        found.setdefault(relations[row["n"] - 1], []).append(row["child"])
    return found
