"""The database of the sandbox: snapshots after each release, and back to one."""

from __future__ import annotations

from collections.abc import Sequence

from .config import PROJECT_DIR, State, container_name, load_secrets, reference_name, snapshot_name
from .shell import run

LIVE = "connectin"
# Migrated on beside the live one, without the application's rows.
REFERENCE = "connectin_ref"


def url(state: State, database: str = LIVE) -> str:
    """The Prisma form of the address, as the application's .env has it."""
    return f"postgresql://connectin:{load_secrets()['database']}@{state.database_host}:5432/{database}?schema=public"


def sql(state: State, statements: Sequence[str]) -> str:
    """What the statements, run one by one as the superuser, print; the first failure ends them."""
    command = ["psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "--tuples-only", "--no-align", "postgres"]
    if state.database_place == "service":
        inside = ["docker", "compose", "--project-directory", PROJECT_DIR, "exec", "-T", "-u", "postgres", "db"]
        prefix = ["docker", "exec", "-i", container_name("app1"), *inside]
    else:
        prefix = ["docker", "exec", "-i", "-u", "postgres", container_name("db")]
    return run([*prefix, *command], input_text="\n".join(statement + ";" for statement in statements)).stdout


def create_empty(state: State) -> None:
    """The live database and the reference start from nothing; snapshots of an earlier life are dropped."""
    listed = sql(state, [r"SELECT datname FROM pg_database WHERE datname LIKE 'connectin%'"]).split()
    statements = [f'DROP DATABASE "{name}" WITH (FORCE)' for name in listed]
    sql(state, statements + [f"CREATE DATABASE {name} OWNER connectin" for name in (LIVE, REFERENCE)])


def take_snapshot(state: State, release: str) -> None:
    """Keeps the live database, and the reference as far as this release has migrated it."""
    sql(state, _copy(LIVE, snapshot_name(release)) + _copy(REFERENCE, reference_name(release)))
    if release not in state.snapshots:
        state.snapshots.append(release)
        state.save()


def _copy(source: str, copy: str) -> list[str]:
    """A copy needs its source without sessions, so nobody may connect until it is made."""
    return [
        f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)",
        f"ALTER DATABASE {source} ALLOW_CONNECTIONS false",
        f"SELECT FROM (SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{source}') gone",
        f"CREATE DATABASE {copy} TEMPLATE {source} OWNER connectin",
        f"ALTER DATABASE {source} ALLOW_CONNECTIONS true",
    ]


def restore_snapshot(state: State, release: str) -> None:
    """The live database is again what it was right after this release was deployed."""
    sql(
        state,
        [
            # Roles of a drill's making keep their rights only in databases that are dropped here.
            f"DROP DATABASE IF EXISTS {LIVE} WITH (FORCE)",
            f"CREATE DATABASE {LIVE} TEMPLATE {snapshot_name(release)} OWNER connectin",
        ],
    )
