# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements that no transaction can hold, run so that a run that was cut off can be taken up again.

The catalog says what is done: nothing is kept beside the database that could be lost or disagree with it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_names as names
from ansible_collections.connectin.rollback.plugins.module_utils import _sql_outside
from ansible_collections.connectin.rollback.plugins.module_utils._connection import Database, DatabaseError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_database import LOCK, Place, session_text
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._sql_outside import COPY, Outside

# Seconds between two looks whether what waits for Prisma's lock keeps an index waiting.
WATCH = 1.0


def require_direct(database: Database) -> None:
    """Refuse a pooler: it would give what is set on the connection to its next client, or no second connection."""
    if database.pooled:
        raise PrismaError(
            "Nothing was changed, because the URL goes through a connection pooler, and a statement outside a "
            "transaction needs a connection of its own. Give the database's direct URL (Prisma's directUrl).",
            code="pooler",
        )


def prepare(worker: Database, place: Place, statement_timeout: float) -> None:
    """Give the connection the scripts' search path."""
    if place.search_path:
        worker.run(f"SET search_path = {names.quote(place.search_path)}")
    # A lock timeout would leave an invalid index behind; who holds it up is watched for instead.
    worker.run("SET standard_conforming_strings = on")
    worker.run("SET lock_timeout = 0")
    worker.run(f"SET statement_timeout = {int(statement_timeout * 1000)}")


def is_done(worker: Database, what: Outside, keeper: Database, patience: float) -> bool:
    """Whether an earlier run did it. What that run left half made is removed."""
    if what.kind == "repeatable":
        return False
    name = names.qualified(what.index)
    if what.kind == "drop_index":
        return bool(worker.value("SELECT to_regclass(%s) IS NULL", [name]))
    table = names.qualified(what.table)
    found = worker.execute(
        "SELECT i.indisvalid AND i.indisready AS valid, i.indrelid = to_regclass(%s) AS here, n.nspname, c.relname "
        "FROM pg_catalog.pg_class t JOIN pg_catalog.pg_class c ON c.relnamespace = t.relnamespace AND c.relname = %s "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE t.oid = to_regclass(%s)",
        [table, what.index[1], table],
    )
    if not found:
        return False
    index = names.qualified((found[0]["nspname"], found[0]["relname"]))
    if not found[0]["here"] or found[0]["valid"] and not _is_the_one(worker, what, index):
        raise PrismaError(
            f"Nothing was changed, because {index} exists and is not the index that the script makes. Look what it is "
            f"for: SELECT pg_get_indexdef('{index}'::regclass);"
        )
    if not found[0]["valid"]:
        run(worker, keeper, f"DROP INDEX CONCURRENTLY IF EXISTS {index}", patience)
        return False
    return True


def _is_the_one(worker: Database, what: Outside, index: str) -> bool:
    """Whether an index is the one that the statement makes: the server writes the definition of both."""
    worker.run("BEGIN")
    try:
        worker.run("SET LOCAL lock_timeout = '5s'")
        worker.run(f"CREATE TEMPORARY TABLE {_sql_outside.COPY} (LIKE {names.qualified(what.table)})")
        worker.run(what.on_copy)
        wanted, there = worker.execute(
            "SELECT pg_catalog.pg_get_indexdef(indexrelid) AS definition, indrelid::regclass::text AS on_table "
            "FROM pg_catalog.pg_index WHERE indrelid = %s::regclass "
            "UNION ALL SELECT pg_catalog.pg_get_indexdef(%s::regclass), NULL",
            [f"pg_temp.{COPY}", index],
        )
        return _after_the_table(wanted["definition"]) == _after_the_table(there["definition"])
    finally:
        worker.rollback()


def _after_the_table(definition: str) -> tuple[bool, str]:
    """What an index definition says besides its name and table: ``(unique, "USING btree (name) WHERE ...")``."""
    head, _using, rest = definition.partition(" USING ")
    return head.startswith("CREATE UNIQUE"), rest


def run(worker: Database, keeper: Database, sql: str, patience: float) -> None:
    """Run the statement, watched over the connection that keeps the locks.

    A deploy that queues for Prisma's lock holds a snapshot, for which the statement would wait without end; any other
    session holds it up for ``patience`` seconds at most.
    """
    pid = int(worker.value("SELECT pg_catalog.pg_backend_pid()"))
    over = threading.Event()
    reasons: list[str] = []

    def watch() -> None:
        held_up = 0.0
        while not over.wait(WATCH):
            try:
                found = _in_the_way(keeper, pid)
                queued = [session for session in found if session["queued"]]
                held_up = held_up + WATCH if found else 0.0
                if queued:
                    reasons.append(
                        f"{_told(queued)} waits for Prisma's lock, and the statement would wait for it: stop that "
                        "deploy"
                    )
                elif held_up >= patience:
                    reasons.append(f"{_told(found)} held it up for {held_up:g} s: end that session")
                if reasons:
                    keeper.execute("SELECT pg_catalog.pg_cancel_backend(%s)", [pid])
                    return
            except DatabaseError:
                # The locks are lost; the caller meets the dead connection itself.
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        worker.run(sql)
    except DatabaseError as error:
        over.set()
        watcher.join()
        if reasons:
            error.hint = reasons[0]
        raise
    finally:
        over.set()
        watcher.join()


def _in_the_way(keeper: Database, pid: int) -> list[dict[str, Any]]:
    """The sessions for which a backend waits, and whether each queues for Prisma's lock itself."""
    return keeper.execute(
        "SELECT a.pid, COALESCE(a.application_name, '') AS application_name, COALESCE(host(a.client_addr), '') AS "
        "client_addr, COALESCE(a.state, '') AS state, COALESCE(a.usename, '')::text AS user, EXISTS (SELECT FROM "
        "pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND NOT l.granted AND l.classid = 0 "
        f"AND l.objid = {LOCK} AND l.objsubid = 1) AS queued FROM pg_catalog.pg_stat_activity a "
        "WHERE a.pid = ANY(pg_catalog.pg_blocking_pids(%s)) ORDER BY a.pid",
        [pid],
    )


def _told(found: Sequence[dict[str, Any]]) -> str:
    return "; ".join(map(session_text, found))
