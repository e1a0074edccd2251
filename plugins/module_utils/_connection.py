# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One connection to PostgreSQL over psycopg 3 or psycopg2, with the same behaviour over both.

The connection is in autocommit mode: every BEGIN and COMMIT is one that the caller wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ansible_collections.connectin.rollback.plugins.module_utils import _database_url
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

APPLICATION_NAME = "connectin.rollback"
# Where the distributions keep the authorities that they trust.
AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

ARGUMENTS: dict[str, Any] = {
    "database_url": {"type": "str", "no_log": True},
    "env_file": {"type": "path"},
    "env_variable": {"type": "str"},
    "project": {"type": "path"},
    "schema": {"type": "str", "default": ""},
    "resolve": {"type": "dict", "default": {}},
    "connect_timeout": {"type": "int", "default": 10},
}
CONSTRAINTS: dict[str, Any] = {
    "mutually_exclusive": [("database_url", "env_file")],
    "required_one_of": [("database_url", "env_file", "project")],
}


class DatabaseError(PrismaError):
    """What PostgreSQL answered. ``position`` is the 1-based character in the statement, ``lost`` a dead connection."""

    def __init__(
        self,
        message: str,
        sqlstate: str = "",
        detail: str = "",
        hint: str = "",
        position: int = 0,
        lost: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint
        self.position = position
        self.lost = lost


def target_from(params: Mapping[str, Any]) -> _database_url.Target:
    """The connection that the module's parameters name."""
    if params["database_url"]:
        return _database_url.parse(params["database_url"], params["resolve"])
    path = params["env_file"]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            text = handle.read()
    except OSError as error:
        raise PrismaError(
            f"Cannot read env_file {path}: {error.strerror}. It is read on the host where this task runs, as the user "
            "that runs it; become: true is needed for a file of root."
        ) from None
    return _database_url.parse(
        _database_url.read_env(text, params["env_variable"] or "DATABASE_URL", path), params["resolve"]
    )


def _import_driver() -> tuple[Any, int]:
    try:
        import psycopg

        return psycopg, 3
    except ImportError:
        pass
    try:
        import psycopg2

        return psycopg2, 2
    except ImportError:
        raise PrismaError(
            "No PostgreSQL driver on the host that runs this task: neither psycopg nor psycopg2 can be imported. "
            "Install one there: apt-get install python3-psycopg",
            code="library_missing",
            next="apt-get install python3-psycopg",
        ) from None


def with_roots(params: Mapping[str, str], libpq_version: int) -> dict[str, str]:
    """The parameters with a file for the system's certification authorities, which libpq finds itself only since 16."""
    if params.get("sslrootcert") != "system" or libpq_version >= 160000:
        return dict(params)
    for bundle in AUTHORITIES:
        if os.path.exists(bundle):
            return {**params, "sslrootcert": bundle}
    raise PrismaError(
        "The database URL wants the server's certificate verified (sslaccept=strict), and this host has none of "
        f"{', '.join(AUTHORITIES)}. Install them: apt-get install ca-certificates. Or name the server's with sslcert."
    )


class _Notices:
    """What psycopg2 appends notices to."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def append(self, notice: str) -> None:
        self._kept.append(notice)

    def taken(self) -> list[str]:
        taken, self._kept = self._kept, []
        return taken


_QUOTED = re.compile(r'"([^"]*)"')
# By the language of the server's messages.
_VALUE = re.compile('["\u00bb\u00ab\u201e\u201c\u2018].*', re.DOTALL)


def _without_values(message: str, sqlstate: str, sql: str) -> str:
    """A message without values of rows: what is quoted stays only where the statement says it itself."""
    known = sql.lower()
    if sqlstate[:2] == "22":
        # A value may hold quotation marks itself, so everything from the first one on goes.
        found = _VALUE.search(message)
        if found and found[0].strip('"\u00bb\u00ab\u201e\u201c\u201d\u2018\u2019 ').lower() not in known:
            return message[: found.start()] + '"..."'
    elif sqlstate[:2] == "42":
        return _QUOTED.sub(lambda found: found[0] if found[1].lower() in known else '"..."', message)
    return message


class Database:
    """An open connection. Rows come back as dictionaries; notices pile up in ``notices`` until they are taken."""

    def __init__(self, target: _database_url.Target, connect_timeout: int = 10) -> None:
        self.target = target
        self._module, self._major = _import_driver()
        self._pending: list[str] = []
        versions = self._module.pq.version if self._major == 3 else self._module.extensions.libpq_version
        params = {
            **with_roots(target.params, versions()),
            "connect_timeout": str(connect_timeout),
            "application_name": APPLICATION_NAME,
            # In the start-up packet, so that RESET ALL inside a script cannot change it.
            "client_encoding": "UTF8",
        }
        try:
            self._raw = self._module.connect(**params)
        except self._module.Error as error:
            raise DatabaseError(
                f"Cannot connect to the database {target.where}: {self._mask(str(error))}. "
                "Check that the server runs and that the URL's host can be reached from the host this task runs on.",
                sqlstate=getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "",
                lost=True,
                code="database_unreachable",
            ) from None
        self._raw.autocommit = True
        if self._major == 2:
            # A plain list would keep the last fifty only.
            self._raw.notices = _Notices()
        if self._major == 3:
            # PgBouncer in transaction mode would not find a prepared statement again.
            self._raw.prepare_threshold = None
            self._raw.add_notice_handler(lambda diag: self._pending.append(f"{diag.severity}: {diag.message_primary}"))

    @property
    def driver(self) -> str:
        return f"{self._module.__name__} {self._module.__version__.split(' ')[0]}"

    @property
    def alive(self) -> bool:
        return not self._raw.closed

    @property
    def pooled(self) -> bool:
        """Behind a pooler such as PgBouncer, which may give every transaction another server connection.

        A pooler makes up the process id that it tells its clients.
        """
        told = self._raw.info.backend_pid
        return self.target.pgbouncer or told != self.value("SELECT pg_catalog.pg_backend_pid()")

    @property
    def in_transaction(self) -> bool:
        """Inside a transaction that has not failed."""
        return int(self._raw.info.transaction_status) == 2

    def execute(self, sql: str, params: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Run one statement; with ``params`` its placeholders are ``%s``, without them ``%`` is itself."""
        cursor = self._sent(sql, params, single=False)
        try:
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
        except self._module.Error as error:
            raise self._translate(error, sql) from None
        finally:
            cursor.close()

    def answers(self, sql: str) -> list[list[tuple[str, Any]]]:
        """The rows of one statement with the names of their columns, which may have the same name."""
        cursor = self._sent(sql, None, single=True)
        try:
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [list(zip(names, row)) for row in cursor.fetchall()]
        except self._module.Error as error:
            raise self._translate(error, sql) from None
        finally:
            cursor.close()

    def run(self, sql: str, single: bool = False) -> str:
        """Run one statement for its effect, whatever it returns; gives PostgreSQL's command tag.

        ``single`` has the server refuse more than one statement, where the driver can ask for that (psycopg 3).
        """
        cursor = self._sent(sql, None, single)
        tag = cursor.statusmessage or ""
        cursor.close()
        return tag

    def _sent(self, sql: str, params: Sequence[Any] | None, single: bool) -> Any:
        try:
            cursor = self._raw.cursor()
            # Only the extended protocol takes a single statement, and psycopg 3 uses it for binary results.
            extra = {"binary": True} if single and self._major == 3 else {}
            cursor.execute(sql, params, **extra)
            return cursor
        except self._module.Error as error:
            raise self._translate(error, sql) from None

    def value(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        """The first column of the first row."""
        rows = self.execute(sql, params)
        return next(iter(rows[0].values())) if rows else None

    def rollback(self) -> None:
        """End the transaction without its effects; a dead connection has done so by itself."""
        if self.alive and int(self._raw.info.transaction_status) != 0:
            try:
                self.run("ROLLBACK")
            except DatabaseError:
                self.close()

    def take_notices(self) -> list[str]:
        """The server's notices and warnings since the last call, such as what a CASCADE took."""
        if self._major == 2:
            self._pending.extend(" ".join(notice.split()) for notice in self._raw.notices.taken())
        taken, self._pending = self._pending, []
        return taken

    def close(self) -> None:
        # A pooler drops its server connection under a client that leaves in the middle of a transaction.
        if self.alive and int(self._raw.info.transaction_status) in (2, 3):
            with contextlib.suppress(self._module.Error):
                self._raw.cursor().execute("ROLLBACK")
        self._raw.close()

    def _mask(self, text: str) -> str:
        text = " ".join(text.split())
        for secret in {self.target.password, quote(self.target.password, safe="")} - {""}:
            text = text.replace(secret, "********")
        return text

    def _translate(self, error: Any, sql: str) -> DatabaseError:
        diag = getattr(error, "diag", None)
        sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        detail = getattr(diag, "message_detail", None) or ""
        # Classes 22 and 23 quote the row in their detail: users' data has no place in a log of operations.
        if sqlstate[:2] in ("22", "23") and detail:
            detail = "withheld, because it quotes the row; PostgreSQL's own log has it"
        position = getattr(diag, "statement_position", None)
        message = self._mask(getattr(diag, "message_primary", None) or str(error))
        message = _without_values(message, sqlstate, sql)
        return DatabaseError(
            message,
            sqlstate=sqlstate,
            detail=self._mask(detail),
            hint=self._mask(getattr(diag, "message_hint", None) or ""),
            position=int(position) if position else 0,
            lost=not self.alive or sqlstate[:2] in ("08", "57") and sqlstate not in ("57014",),
        )
