"""A password in the URL and a value in a row are planted; nothing that anybody can read afterwards holds them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from .conftest import CHECKOUT, NEWEST
from .scene import INIT, REACTIONS, RENAME

# What is tested here does not depend on the server's version.
pytestmark = pytest.mark.parametrize("programs", [NEWEST], indirect=True, scope="session", ids=["newest"])

LAST = ("20260104_column", "ALTER TABLE users ADD COLUMN age text;", "ALTER TABLE users DROP COLUMN age;")
CONSENT = {"target": "v1", "confirm_data_loss": "v1"}


@dataclass
class Plant:
    """``token`` is in every secret, however that is written; ``row`` is a value in a table."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    row: str = field(default_factory=lambda: "row" + secrets.token_hex(8))

    @property
    def password(self) -> str:
        return f"{self.token}/&{self.token}:%#"

    def url(self, stack, password: str | None = None) -> str:
        encoded = quote(self.password, safe="") if password is None else password
        return f"postgresql://planted:{encoded}@127.0.0.1:{stack.port}/{stack.name}?schema=public"

    def found_in(self, text: str) -> list[str]:
        forms = [
            self.token,
            self.row,
            *(base64.b64encode(part.encode()).decode()[:16] for part in (self.token, self.row)),
        ]
        return [form for form in forms if form in text]


class Watcher:
    """What others see while something runs: the processes with their environment, and what PostgreSQL shows."""

    def __init__(self, stack) -> None:
        self._eye = stack.connect()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.processes: set[str] = set()
        self.queries: set[str] = set()

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                # It may have ended since it was listed.
                with suppress(OSError):
                    for name in ("cmdline", "environ"):
                        self.processes.add((process / name).read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            rows = self._eye.execute(
                "SELECT concat_ws(' ', application_name, query) FROM pg_stat_activity WHERE usename = 'planted'"
            )
            self.queries.update(row for (row,) in rows.fetchall())


@pytest.fixture
def plant(stack):
    plant = Plant()
    admin = stack.connect()
    admin.execute("DROP ROLE IF EXISTS planted")
    admin.execute(f"CREATE ROLE planted LOGIN IN ROLE app PASSWORD '{plant.password}'")
    admin.execute("ALTER ROLE planted SET log_statement = 'all'")
    for migration in (INIT, RENAME, REACTIONS, LAST):
        stack.apply(*migration)
    stack.sql("INSERT INTO users VALUES (1, %s, %s)", plant.row, plant.row)
    yield plant
    admin.execute("DROP OWNED BY planted")
    admin.execute("DROP ROLE planted")


# Parts of the password where none belongs: of every one PostgreSQL's or the parser's message may quote something.
ODD_PASSWORDS = {
    "wrong": "wrong{0}",
    "an open bracket": "{0}[",
    "brackets": "[{0}]",
    "a slash": "{0}/{0}",
    "a slash after digits": "1/{0}",
    "a question mark": "{0}?{0}={0}",
    "a question mark after digits": "1?{0}=1",
    "a hash": "1#{0}",
    "an @ after a slash": "12345/{0}@{0}",
    "an @": "{0}@{0}",
    "a bad escape": "%zz{0}",
    "spaces": "{0} {0}",
    "a backslash": "{0}\\{0}",
}
ODD_URLS = {
    "no URL at all": "{0}",
    "another scheme": "{0}://{0}",
    "a secret in a parameter": "postgresql://planted@127.0.0.1:1/x?{0}={0}",
    "a secret as the mode of TLS": "postgresql://planted@127.0.0.1:1/x?sslmode={0}",
    "a password of a client certificate": "postgresql://planted@127.0.0.1:1/x?sslidentity=x&sslpassword={0}",
    "an option that the server refuses": "postgresql://planted:{0}@127.0.0.1:1/x?options=-c%20x.y%3Dz",
    "a host that is none": "postgresql://planted:{0}@nowhere.invalid/x",
}
ODD_FILES = {
    "a $ in it": "DATABASE_URL=postgresql://planted:a${0}@127.0.0.1:1/x\n",
    "a ${ in it": 'DATABASE_URL="postgresql://planted:a${{{0}@127.0.0.1:1/x"\n',
    "an open quote": "DATABASE_URL='postgresql://planted:{0}@127.0.0.1:1/x\n",
    "another name": "{0}=postgresql://planted:{0}@127.0.0.1:1/x\n",
}
# Each fails on a row, and PostgreSQL's message or detail quotes it.
QUOTING = {
    "a number": "ALTER TABLE users ALTER COLUMN age TYPE int USING age::int;",
    "an enum": "CREATE TYPE e AS ENUM ('a'); ALTER TABLE users ALTER COLUMN age TYPE e USING age::e;",
    "a date": "ALTER TABLE users ALTER COLUMN age TYPE date USING age::date;",
    "a uuid": "ALTER TABLE users ALTER COLUMN age TYPE uuid USING age::uuid;",
    "an interval": "ALTER TABLE users ALTER COLUMN age TYPE interval USING age::interval;",
    "an array": "ALTER TABLE users ALTER COLUMN age TYPE int[] USING age::int[];",
    "json": "ALTER TABLE users ALTER COLUMN age TYPE jsonb USING age::jsonb;",
    "a unique index": "CREATE UNIQUE INDEX ON users (age); INSERT INTO users SELECT 2, full_name, age FROM users;",
    "a check": "ALTER TABLE users ADD CHECK (id > 1) NOT VALID; UPDATE users SET id = id;",
    "a partition": "CREATE TABLE p (LIKE users) PARTITION BY LIST (age); INSERT INTO p SELECT * FROM users;",
    "a foreign key": "ALTER TABLE users ADD FOREIGN KEY (age) REFERENCES named;",
    "a text search": "SELECT to_tsquery(age || ' & & x') FROM users;",
    "a name": "SELECT age::regclass FROM users;",
}


def shown(stack, module: str, **args) -> str:
    result = stack.run(module, diff=True, **args)
    assert result["failed"] and not result["changed"], result
    return json.dumps(result)


@pytest.mark.parametrize("module", ["prisma_migration_info", "prisma_migration"])
def test_no_part_of_a_password_is_shown_however_the_url_is_malformed(stack, plant, module, tmp_path):
    more = {"migrations": [LAST[0]]} if module == "prisma_migration" else {}
    urls = {name: plant.url(stack, odd.format(plant.token)) for name, odd in ODD_PASSWORDS.items()}
    urls.update({name: url.format(plant.token) for name, url in ODD_URLS.items()})
    told = {name: shown(stack, module, database_url=url, connect_timeout=2, **more) for name, url in urls.items()}
    for name, text in ODD_FILES.items():
        (tmp_path / "env").write_text(text.format(plant.token))
        told[name] = shown(stack, module, env_file=str(tmp_path / "env"), connect_timeout=2, **more)
    assert {name: text for name, text in told.items() if plant.found_in(text)} == {}


@pytest.mark.parametrize("hidden", [(), ("psycopg",)], ids=["psycopg", "psycopg2"])
def test_no_value_of_a_row_is_shown_whatever_fails_on_it(stack, plant, hidden):
    stack.sql("CREATE TABLE named (age text PRIMARY KEY)")
    told = {}
    for name, script in QUOTING.items():
        stack.write(LAST[0], LAST[1], script)
        told[name] = shown(stack, "prisma_migration", migrations=[LAST[0]], without=hidden, **CONSENT)
    assert all('"sqlstate": ' in text for text in told.values())
    assert {name: text for name, text in told.items() if plant.found_in(text)} == {}


def tasks(stack, folder: Path):
    """One after the other: a module, its arguments, and whether it fails."""
    path = [str(stack.folder)]
    from_file = {"env_file": str(folder / "env"), "migrations": [LAST[0]]}
    yield "prisma_migration_info", {"database_url": "{{ url }}", "path": path}, False
    yield "prisma_migration", {"database_url": "{{ wrong }}", "migrations": [LAST[0]], "path": path}, True
    yield "prisma_migration", {"database_url": "{{ malformed }}", "migrations": [LAST[0]], "path": path}, True
    for number, name in enumerate(("a number", "a unique index")):
        own = folder / f"quoting{number}"
        stack.write(LAST[0], LAST[1], QUOTING[name], own)
        yield "prisma_migration", {**from_file, "path": [str(own)], **CONSENT}, True
    yield "prisma_migration", {**from_file, "path": path}, True
    yield "prisma_migration", {**from_file, "path": path, **CONSENT, "check_mode": True}, False
    slow = folder / "slow"
    stack.write(LAST[0], LAST[1], f"SELECT pg_sleep(0.5); {LAST[2]}", slow)
    yield "prisma_migration", {**from_file, "path": [str(slow)], **CONSENT}, False
    yield "prisma_migration", {"database_url": "{{ url }}", "migrations": [REACTIONS[0]], "path": path}, False
    yield "prisma_migration", {**from_file, "state": "applied", "path": path}, False


def test_no_secret_is_in_output_logs_diffs_process_lists_or_the_record_at_any_verbosity(stack, plant, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    values = {
        "url": plant.url(stack),
        "wrong": plant.url(stack, f"wrong{plant.token}"),
        "malformed": plant.url(stack, ODD_PASSWORDS["an @ after a slash"].format(plant.token)),
    }
    (given / "values.json").write_text(json.dumps(values))
    (given / "env").write_text(f"DATABASE_URL='{values['url']}'\n")
    play = []
    for module, args, fails in tasks(stack, given):
        check = args.pop("check_mode", False)
        play.append(
            {
                "name": f"{module} that {'fails' if fails else 'succeeds'}",
                f"connectin.rollback.{module}": args,
                "check_mode": check,
                "register": "done",
                "failed_when": f"done.failed is {'not ' if fails else ''}true" if fails else "done.failed is true",
            }
        )
    site = tmp_path / "site.yml"
    site.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": play}]))
    home = tmp_path / "home"
    command = [
        str(CHECKOUT / ".venv/bin/ansible-playbook") if (CHECKOUT / ".venv").exists() else "ansible-playbook",
        *("-i", "localhost,", "-c", "local", "-e", f"@{given}/values.json", "--diff", "-vvvvv", str(site)),
        *("-e", f"ansible_python_interpreter={sys.executable}"),
    ]
    with Watcher(stack) as watcher:
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
                "ANSIBLE_HOME": str(home),
                "ANSIBLE_LOCAL_TEMP": str(home / "local"),
                "ANSIBLE_REMOTE_TEMP": str(home / "remote"),
                "ANSIBLE_LOG_PATH": str(home / "log"),
                # As all versions before ansible-core 2.21 do it.
                "ANSIBLE_INJECT_INVOCATION": "1",
            },
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert stack.live() == [INIT[0], RENAME[0], LAST[0]]
    server_log = (stack.home / "log").read_text(errors="replace")
    by_planted = "\n".join(watcher.queries)
    places = {
        "the output": done.stdout + done.stderr,
        "Ansible's log": (home / "log").read_text(),
        "the processes": "\n".join(watcher.processes),
        "pg_stat_activity": by_planted,
        "the history": str(stack.sql("SELECT * FROM _prisma_migrations")),
        "what stayed in files": "\n".join(
            each.read_bytes().decode(errors="replace")
            for each in home.rglob("*")
            if each.is_file() and each != home / "log"
        ),
    }
    # What is looked through is the right thing.
    assert '"invocation": {' in places["the output"]
    assert "Cannot connect" in places["the output"] and "22P02" in places["the output"], done.stdout
    assert f"-{LAST[0]}" in places["the output"], "no diff was shown"
    assert "AnsiballZ_prisma_migration" in places["the processes"] and "pg_sleep" in by_planted
    assert "pg_try_advisory_xact_lock" in server_log
    assert {name: found for name, text in places.items() if (found := plant.found_in(text))} == {}
    # PostgreSQL's own log quotes the rows of its errors; the password is not in it either.
    assert plant.token not in server_log
