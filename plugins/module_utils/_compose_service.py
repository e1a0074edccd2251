# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The containers of one Compose service while it goes to its new definition: which stay, which go, what they serve."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HASH_LABEL = "com.docker.compose.config-hash"
# Beside the folder of the assets, so that it is not served with them.
CARRIED_FILE = "rollback-assets.json"
# A process may end once because what it needs is late; one that ended three times does not run.
RESTARTS = 3


@dataclass(frozen=True)
class Member:
    """One container of the service. ``health`` is '' where the image has no health check."""

    id: str
    name: str
    state: str
    health: str
    image_id: str
    config_hash: str
    created: str
    addresses: tuple[str, ...] = ()
    restarts: int = 0

    @property
    def running(self) -> bool:
        """Whether its process runs, or is about to."""
        return self.state in ("running", "restarting", "paused")


@dataclass(frozen=True)
class Wanted:
    """A service as the project defines it now; ``image_id`` is '' when the image is not on the host."""

    config_hash: str
    image: str
    image_id: str
    replicas: int
    container_name: str = ""


@dataclass(frozen=True)
class Members:
    """``current`` has the definition that is wanted, the liveliest first; ``old`` has another one."""

    current: tuple[Member, ...]
    old: tuple[Member, ...]


@dataclass(frozen=True)
class ProxyServer:
    """A server of HAProxy as its runtime API shows it: whether its checks pass, and whether somebody drained it."""

    backend: str
    name: str
    address: str
    running: bool
    drained: bool

    @property
    def up(self) -> bool:
        """Whether it gets requests."""
        return self.running and not self.drained


@dataclass(frozen=True)
class Carried:
    """Files that came from an earlier release and are kept until a time, in seconds since 1970."""

    until: float
    files: tuple[str, ...]


def member(container: Mapping[str, Any]) -> Member:
    """A container as ``docker container inspect`` shows it."""
    state = container.get("State") or {}
    config = container.get("Config") or {}
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return Member(
        id=str(container.get("Id") or ""),
        name=str(container.get("Name") or "").lstrip("/"),
        state=str(state.get("Status") or ""),
        health=str((state.get("Health") or {}).get("Status") or "").replace("none", ""),
        image_id=str(container.get("Image") or ""),
        config_hash=str((config.get("Labels") or {}).get(HASH_LABEL) or ""),
        created=str(container.get("Created") or ""),
        addresses=tuple(str(net["IPAddress"]) for net in networks.values() if net and net.get("IPAddress")),
        restarts=int(container.get("RestartCount") or 0),
    )


def divide(members: Iterable[Member], wanted: Wanted) -> Members:
    """Which containers are what the project defines, and which are to go.

    More current ones than are wanted are old as well: a run that was killed may have left one that never started.
    """
    current, old = [], []
    for one in members:
        same = one.config_hash == wanted.config_hash and one.image_id == wanted.image_id
        (current if same else old).append(one)
    current.sort(key=lambda one: one.created, reverse=True)
    current.sort(key=lambda one: (one.health != "healthy", one.state != "running"))
    return Members(tuple(current[: wanted.replicas]), tuple(old + current[wanted.replicas :]))


def readiness(one: Member) -> str:
    """``ready``, ``waiting``, or ``failed`` when waiting longer makes no sense.

    Without a health check running is all there is to see, as for ``docker compose up --wait``. One health check that
    failed while the container starts is none: the engine says unhealthy only after all of its retries.
    """
    if one.restarts >= RESTARTS or one.state in ("exited", "dead", "removing"):
        return "failed"
    if one.state == "running":
        return {"": "ready", "healthy": "ready", "unhealthy": "failed"}.get(one.health, "waiting")
    return "waiting"


def read_hashes(printed: str) -> dict[str, str]:
    """The hash of each service in the output of ``docker compose config --hash '*'``."""
    words = [line.split() for line in printed.splitlines()]
    return {line[0]: line[1] for line in words if len(line) == 2}


def read_services(rendered: str) -> dict[str, dict[str, Any]]:
    """The services in the output of ``docker compose config --format json``. Raises ValueError when it is none."""
    found = json.loads(rendered).get("services")
    if not isinstance(found, dict):
        raise ValueError("no services")
    return {name: service or {} for name, service in found.items()}


def replicas(service: Mapping[str, Any]) -> int:
    """How many containers the project defines for a service, at least one."""
    number = (service.get("deploy") or {}).get("replicas", service.get("scale"))
    return max(1, int(1 if number is None else number))


def proxy_servers(answer: str) -> list[ProxyServer]:
    """The servers in HAProxy's answer to ``show servers state`` (version 1 of its format, the only one there is)."""
    found = []
    for line in answer.splitlines():
        words = line.split()
        if len(words) > 6 and words[0].isdigit() and words[2].isdigit():
            # srv_op_state 0 is stopped; of srv_admin_state 8 is a drain that the runtime API was told
            found.append(ProxyServer(words[1], words[3], words[4], words[5] != "0", bool(int(words[6]) & 8)))
    return found


def proxy_sessions(answer: str) -> dict[tuple[str, str], int]:
    """The requests that each server has in hand, by backend and server, in HAProxy's answer to ``show stat``."""
    found = {}
    for line in answer.splitlines():
        words = line.split(",")
        if len(words) > 4 and words[4].isdigit():
            found[words[0], words[1]] = int(words[4])
    return found


def archive_files(archive: bytes) -> list[str]:
    """The names of the files in an archive of a folder, relative to that folder. Raises ValueError for no archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            return [_inside(entry.name) for entry in tar if entry.isfile()]
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def read_carried(text: str) -> list[Carried]:
    """What a container carries from earlier releases; [] when the text is none of ours."""
    try:
        return [Carried(float(row["until"]), tuple(map(str, row["files"]))) for row in json.loads(text or "[]")]
    except (ValueError, TypeError, KeyError):
        return []


def carry(files: Sequence[str], earlier: Sequence[Carried], now: float, seconds: int) -> list[Carried]:
    """What the next container carries: the files of the one before, and those it carried whose time is not over.

    ``files`` is all that the container before holds; what it carried itself is not its own and keeps its time.
    """
    foreign = {name for row in earlier for name in row.files}
    held = set(files)
    rows = [Carried(row.until, tuple(name for name in row.files if name in held)) for row in earlier if row.until > now]
    own = tuple(name for name in files if name not in foreign)
    return [row for row in [Carried(now + seconds, own), *rows] if row.files]


def overlap_archive(before: bytes, present: Iterable[str], carried: Sequence[Carried]) -> tuple[bytes, int]:
    """The archive to unpack into the parent of the assets' folder, and the number of files in it.

    It holds what is carried and not in the new container already, whose own files are never replaced, with owners and
    modes as they were, and the list of what is carried.
    """
    wanted = {name for row in carried for name in row.files} - set(present)
    parents = {parent for name in wanted for parent in _parents(name)}
    made = io.BytesIO()
    count = 0
    with tarfile.open(fileobj=io.BytesIO(before), mode="r:") as old, tarfile.open(fileobj=made, mode="w:") as new:
        for entry in old:
            name = _inside(entry.name)
            if entry.isdir() and name in parents:
                new.addfile(entry)
            elif entry.isfile() and name in wanted:
                new.addfile(entry, old.extractfile(entry))
                count += 1
        text = json.dumps([{"until": row.until, "files": list(row.files)} for row in carried]).encode()
        listed = tarfile.TarInfo(CARRIED_FILE)
        listed.size, listed.mode = len(text), 0o644
        new.addfile(listed, io.BytesIO(text))
    return made.getvalue(), count


def _inside(name: str) -> str:
    """The engine names entries after the folder that was asked for: ``static/chunks/1.js``."""
    return name.strip("/").partition("/")[2]


def _parents(name: str) -> list[str]:
    found = []
    while posixpath.dirname(name):
        name = posixpath.dirname(name)
        found.append(name)
    return found
