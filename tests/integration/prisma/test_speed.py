"""How long it takes, and how many questions it asks.

Timed is the module's main() in a process forked from a warm interpreter, with its connection, its files and its parser;
neither Python's own start nor Ansible's is in it.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
import time

from .conftest import PASSWORD
from .wire import Proxy

CONSENT = {"target": "v1", "confirm_data_loss": "v1"}


def seconds(work) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def deploy(stack, history) -> None:
    """Files, effects and rows of a whole history: (name, up, down) each."""
    for name, up, down in history:
        stack.write(name, up, down)
    stack.sql("".join(up for _name, up, _down in history))
    stack.sql(
        "INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name, started_at, applied_steps_count) "
        "SELECT gen_random_uuid(), checksum, now(), name, now() - interval '1 day' + number * interval '1 second', 1 "
        "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS given (name, checksum, number)",
        [name for name, _up, _down in history],
        [hashlib.sha256(up.encode()).hexdigest() for _name, up, _down in history],
    )


def varied(number: int):
    """Five migrations about one table, whose down scripts lose rows and values in every way there is."""
    t = f"t{number}"
    yield (
        f"CREATE TABLE {t} (id int PRIMARY KEY, a text, b int, parent int REFERENCES {t} ON DELETE CASCADE);\n"
        f"CREATE INDEX ON {t} (a);\nINSERT INTO {t} VALUES (1, 'x', 2, NULL), (2, NULL, 3, 1);\n",
        f"DROP TABLE {t};\n",
    )
    yield f"ALTER TABLE {t} ADD COLUMN c text;\nUPDATE {t} SET c = 'lost';\n", f"ALTER TABLE {t} DROP COLUMN c;\n"
    yield (
        f"CREATE TYPE e{number} AS ENUM ('one');\nALTER TABLE {t} ADD COLUMN e e{number};\n",
        f"ALTER TABLE {t} DROP COLUMN e;\nDROP TYPE e{number};\n",
    )
    yield (
        f"INSERT INTO {t} VALUES (3, 'y', 4, 1);\n",
        f"DELETE FROM {t} WHERE b = 4;\nUPDATE {t} SET a = 'z' WHERE id = 1;\n",
    )
    yield f"ALTER TABLE {t} ALTER COLUMN b TYPE bigint;\n", f"ALTER TABLE {t} ALTER COLUMN b TYPE int;\n"


def long_history(count: int):
    scripts = [pair for number in range(count // 5) for pair in varied(number)]
    return [(f"{20200101000000 + number}_m", up, down) for number, (up, down) in enumerate(scripts)]


def queries(stack, module: str, **args) -> tuple[list[str], dict]:
    with Proxy(stack.port) as proxy:
        result = stack.run(module, database_url=proxy.url(stack.url), **args)
    assert not result.get("failed"), result
    return proxy.statements, result


def test_info_of_500_migrations_takes_less_than_a_second_and_no_more_queries_than_of_5(stack):
    history = long_history(500)
    deploy(stack, history[:5])
    few, result = queries(stack, "prisma_migration_info")
    assert [len(each["loss"]) for each in result["migrations"]] == [1, 1, 0, 3, 1]
    shutil.rmtree(stack.folder)
    stack.sql("DROP TABLE t0; DROP TYPE e0; DELETE FROM _prisma_migrations")
    deploy(stack, history)
    many, result = queries(stack, "prisma_migration_info")
    assert len(result["applied"]) == 500 and sum(len(each["loss"]) for each in result["migrations"]) == 600
    # The quickest of five: what it takes, and not what else the machine does.
    took = min(seconds(stack.info) for _ in range(5))
    print(f"info: 500 migrations in {took:.3f} s; {len(few)} queries for 5, {len(many)} for 500")
    assert took < 1
    assert len(many) <= len(few)


def working(rows: int):
    """Twenty migrations whose down scripts have something to do: on a table of so many rows they build and rewrite."""
    scripts = [
        (
            f"CREATE TABLE big (id int PRIMARY KEY, a text, b int, c int);\n"
            f"INSERT INTO big SELECT n, 'text ' || n, n, n FROM generate_series(1, {rows}) AS n;\n",
            "DROP TABLE big;\n",
        )
    ]
    for number in range(1, 21):
        scripts.append(
            [
                (f"CREATE TABLE s{number} AS SELECT id, a FROM big;\n", f"DROP TABLE s{number};\n"),
                (f"ALTER TABLE big ADD COLUMN n{number} int DEFAULT 1;\n", f"ALTER TABLE big DROP COLUMN n{number};\n"),
                ("ALTER TABLE big ALTER COLUMN b TYPE bigint;\n", "ALTER TABLE big ALTER COLUMN b TYPE int;\n"),
                ("UPDATE big SET c = c + 1 WHERE id % 4 = 0;\n", "UPDATE big SET c = c - 1 WHERE id % 4 = 0;\n"),
                (
                    f"CREATE VIEW v{number} AS SELECT id FROM big;\n",
                    f"DROP VIEW v{number};\nCREATE INDEX i{number} ON big (a, id);\nDROP INDEX i{number};\n",
                ),
            ][number % 5]
        )
    return [(f"{20200101000000 + number}_m", up, down) for number, (up, down) in enumerate(scripts)]


def test_20_migrations_go_down_in_one_and_a_half_times_what_psql_takes_plus_a_second(stack, tmp_path):
    history = working(rows=40000)
    gone = [name for name, _up, _down in history[:0:-1]]
    one_file = tmp_path / "down.sql"
    one_file.write_text("".join(down for _name, _up, down in history[:0:-1]))
    psql = [
        *(shutil.which("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", str(one_file)),
        f"host=127.0.0.1 port={stack.port} user=app dbname={stack.name}",
    ]

    def by_psql() -> None:
        subprocess.run(psql, check=True, env={"PGPASSWORD": PASSWORD}, capture_output=True)

    def by_the_module() -> None:
        result = stack.down(*gone, **CONSENT)
        assert [each["name"] for each in result["rolled_back"]] == gone, result

    taken = {by_psql: [], by_the_module: []}
    # Side by side: whatever else the machine does meets both.
    for _round in range(3):
        for contestant, found in taken.items():
            deploy(stack, history)
            found.append(seconds(contestant))
            assert stack.columns("big") == ["id", "a", "b", "c"] and stack.tables() == ["big"]
            stack.sql("DROP TABLE big; DELETE FROM _prisma_migrations")
    psql_took, module_took = (statistics.median(found) for found in taken.values())
    print(f"20 migrations down: psql {psql_took:.3f} s, the module {module_took:.3f} s")
    assert module_took <= 1.5 * psql_took + 1
