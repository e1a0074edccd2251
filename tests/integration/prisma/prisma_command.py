"""Prisma's own commands: the CLI 6.19.3, and the schema engine of Prisma 7.9 as its CLI calls it.

Both run the engine's WebAssembly build over the node driver of PostgreSQL. Other than the native engine it sends a
script in pieces, one per semicolon, and ignores PRISMA_SCHEMA_DISABLE_ADVISORY_LOCK.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .conftest import PACKAGES

ENGINES = ("6.19.3", "7.9.0")
LOCK_FILE = 'provider = "postgresql"\n'


@dataclass(frozen=True)
class Said:
    """What a command answered. ``names``: what a deploy applied, or what status calls not yet applied."""

    done: bool
    text: str
    names: list[str]
    edited: list[str]

    @property
    def code(self) -> str:
        """Prisma's error code, such as P3009."""
        found = re.search(r"\bP\d{4}\b", self.text)
        return found[0] if found else ""


class Command:
    """A command that runs."""

    def __init__(self, engine: str, process: subprocess.Popen) -> None:
        self._engine = engine
        self.process = process

    def said(self) -> Said:
        """Wait for its end."""
        text, _ = self.process.communicate(timeout=60)
        done = self.process.returncode == 0
        if self._engine == ENGINES[0]:
            return Said(done, text, _listed(text), [])
        if not done:
            return Said(False, text, [], [])
        answer = json.loads(text)
        history = answer.get("history") or {}
        names = answer.get("appliedMigrationNames") or history.get("unappliedMigrationNames") or []
        # The CLI ends with 1 where the engine finds the history and the folder at odds.
        return Said(
            not history and not answer.get("failedMigrationNames"), text, names, answer.get("editedMigrationNames", [])
        )


def _listed(text: str) -> list[str]:
    """The migrations in the CLI's text: a tree of what was applied, or the lines below `not yet been applied`."""
    pending = re.search(r"have not yet been applied:\n((?:.+\n)+)", text)
    return pending[1].splitlines() if pending else re.findall(r"─ (.+)/$", text, re.MULTILINE)


class Prisma:
    """One version of Prisma, pointed at one database."""

    def __init__(self, engine: str, home: Path, url: str) -> None:
        self.engine = engine
        self.url = url
        self._home = home
        home.mkdir(exist_ok=True)
        for path in Path(__file__).with_name("prisma_cli").iterdir():
            if path.is_file():
                shutil.copy(path, home)
        # Node looks for packages beside the scripts.
        (home / "node_modules").symlink_to(PACKAGES)

    def start(self, command: str, folder: Path, name: str = "", lingers: bool = False) -> Command:
        """Start ``deploy``, ``status``, ``applied`` or ``rolled-back`` on a folder of migrations."""
        (folder / "migration_lock.toml").write_text(LOCK_FILE)
        if self.engine == ENGINES[0]:
            arguments = ["migrate", *(["resolve", f"--{command}", name] if name else [command])]
        else:
            arguments = [command, str(folder), *([name] if name else [])]
        return Command(self.engine, self._node(arguments, MIGRATIONS=str(folder), PRISMA_LINGERS="1" * lingers))

    def deploy(self, folder: Path) -> Said:
        return self.start("deploy", folder).said()

    def status(self, folder: Path) -> Said:
        return self.start("status", folder).said()

    def resolve(self, folder: Path, *, applied: str = "", rolled_back: str = "") -> Said:
        return self.start("applied" if applied else "rolled-back", folder, applied or rolled_back).said()

    def diff(self, before: str, after: str) -> str:
        """The script that `migrate diff` generates from one schema to another. The CLI's."""
        paths = []
        for number, models in enumerate((before, after)):
            path = self._home / f"{number}.prisma"
            path.write_text((self._home / "schema.prisma").read_text() + models)
            paths.append(str(path))
        arguments = ["migrate", "diff", "--script", "--from-schema-datamodel", paths[0], "--to-schema-datamodel"]
        process = self._node([*arguments, paths[1]])
        script, why = process.communicate(timeout=60)
        assert process.returncode == 0, why
        return script

    def _node(self, arguments: list[str], **variables: str) -> subprocess.Popen:
        program = "node_modules/prisma/build/index.js" if self.engine == ENGINES[0] else "engine.mjs"
        return subprocess.Popen(
            ["node", program, *arguments],
            cwd=self._home,
            env={
                **os.environ,
                **variables,
                "DATABASE_URL": self.url,
                # The CLI wants native engines to exist, and with these two it looks for no others.
                "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
                "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
                "CHECKPOINT_DISABLE": "1",
                "NO_COLOR": "1",
                "XDG_CONFIG_HOME": str(self._home),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if self.engine == ENGINES[0] and "diff" not in arguments else subprocess.PIPE,
            text=True,
        )
