# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was on a host before a run changed it: the manifest of the kept files, and how the checkout goes back to it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1
# A run names a directory below the state directory.
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class SnapshotError(Exception):
    """What was before cannot be kept or brought back; the text is for the operator."""


@dataclass(frozen=True)
class KeptFile:
    """One file as it was. ``copy`` is the name of its copy beside the manifest, '' for a file that was not there."""

    path: str
    copy: str = ""
    sha256: str = ""
    mode: int = 0
    uid: int = -1
    gid: int = -1


@dataclass(frozen=True)
class Manifest:
    """All that was kept. ``head`` is '' where there was no git checkout, ``branch`` '' on a detached HEAD.

    ``containers`` is ``{service: {image, image_id, state}}``.
    """

    head: str = ""
    branch: str = ""
    files: tuple[KeptFile, ...] = ()
    containers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def hashes(self) -> set[str]:
        """The SHA-256 of every file that was kept."""
        return {kept.sha256 for kept in self.files} - {""}

    def as_text(self) -> str:
        """The content of before.json."""
        return json.dumps({"v": VERSION, **asdict(self)}, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Move:
    """What git has to do: ``discard`` are tracked files to put back first, ``to`` what to check out, '' for nothing."""

    discard: tuple[str, ...] = ()
    to: str = ""


def check_run(run_id: str) -> str:
    """Return ``run_id`` when a directory can be called that; raise SnapshotError otherwise."""
    if not _RUN.fullmatch(run_id):
        raise SnapshotError(
            f"{run_id!r} cannot name a run: it has to be letters, digits, '_', '.' and '-', at most 128 of them, not "
            "starting with '.' or '-'."
        )
    return run_id


def parse(text: str, path: str) -> Manifest:
    """Read a manifest. Raises SnapshotError for what is none."""
    try:
        raw = json.loads(text)
        if raw["v"] != VERSION:
            raise ValueError("another version")
        return Manifest(
            head=str(raw["head"]),
            branch=str(raw["branch"]),
            files=tuple(KeptFile(**entry) for entry in raw["files"]),
            containers={str(name): dict(facts) for name, facts in raw["containers"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SnapshotError(
            f"{path} cannot be read, so nothing tells what was on this host before. Nothing was changed. "
            f"See it with: head {path}"
        ) from error


def copy_name(position: int, path: str) -> str:
    """The name of the copy of the file at ``path``; the position keeps files of one name apart."""
    return f"{position}-{path.rsplit('/', 1)[-1].lstrip('.') or 'file'}"


def beside(names: Collection[str], stem: str, suffix: str) -> str:
    """The first name that is free, like ``containers.log``, then ``containers-2.log``."""
    number, name = 1, f"{stem}{suffix}"
    while name in names:
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def move(manifest: Manifest, head: str, branch: str, branch_commit: str, changed: Iterable[str]) -> Move:
    """How the checkout gets back to the commit of the manifest, and to its branch where that still is this commit."""
    returns = bool(manifest.branch) and branch_commit == manifest.head
    if head == manifest.head and (branch == manifest.branch or not returns):
        return Move()
    to = manifest.branch if returns else manifest.head
    return Move(tuple(sorted(changed)) if head != manifest.head else (), to)


def log_lines(container: str, text: str) -> str:
    """The log of one container with its name before each line, as Compose shows it."""
    # Not splitlines(): it also cuts at characters that an application may write within a line.
    return "".join(f"{container}  | {line}\n" for line in text.rstrip("\n").split("\n") if line)


def container_facts(container: Mapping[str, Any]) -> dict[str, str]:
    """Of a container as _stack.describe gives it what the manifest keeps."""
    return {key: str(container[key]) for key in ("image", "image_id", "state")}
