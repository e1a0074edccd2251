"""Where things are, how they are called, and what is remembered between two calls."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import threading
from pathlib import Path
from typing import Any

from .shell import SandboxError

_secrets_lock = threading.Lock()

SANDBOX = Path(__file__).resolve().parent.parent
CHECKOUT = SANDBOX.parent
HOME = CHECKOUT / ".sandbox"
INVENTORY = CHECKOUT / "inventories" / "sandbox" / "hosts.yml"
APP = SANDBOX / "app"
IMAGES = SANDBOX / "images"

# Two checkouts on one machine must not meet: every name starts with a digest of the checkout's path.
PREFIX = "connectin-" + hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:4]

RELEASES = ("v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0")
# A fleet that has just come up has lived through these, in this order.
DEPLOYED = RELEASES[:3]
# The others are what a rollback is for: v1.2.0 answers 503, v1.3.0 ends as soon as it starts.
HEALTHY = RELEASES[:2]

PROJECT_DIR = "/srv/connectin"
STATE_DIR = "/var/lib/connectin-rollback"
KEY = HOME / "id_ed25519"
FETCH_KEY = HOME / "fetch_ed25519"
KNOWN_HOSTS = HOME / "known_hosts"

# The last number of each address; hosts follow each other from FIRST_HOST on.
ADDRESSES = {"registry": 2, "db": 3, "ci": 4, "lb": 5}
FIRST_HOST = 11


@dataclasses.dataclass
class State:
    """What .sandbox/state.json holds: addresses and names, no secret."""

    subnet: str = ""
    database_place: str = "apart"
    hosts: dict[str, str] = dataclasses.field(default_factory=dict)
    web: str = "image"
    # what the releases were made of, and the commits that came out
    app_digest: str = ""
    commits: dict[str, str] = dataclasses.field(default_factory=dict)
    built: list[str] = dataclasses.field(default_factory=list)
    # what the registry answered after each push: 'connectin/api:v1.0.0' -> 'sha256:..'
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    snapshots: list[str] = dataclasses.field(default_factory=list)
    # the sources that the snapshots stand for
    snapshots_of: str = ""
    deployed: dict[str, str] = dataclasses.field(default_factory=dict)

    def address(self, number: int) -> str:
        return self.subnet.rsplit(".", 1)[0] + f".{number}"

    def service(self, name: str) -> str:
        return self.address(ADDRESSES[name])

    @property
    def network(self) -> str:
        return PREFIX

    @property
    def registry(self) -> str:
        return f"{self.service('registry')}:5000"

    @property
    def git_url(self) -> str:
        return f"ssh://git@{self.service('ci')}/srv/git/connectin.git"

    @property
    def database_host(self) -> str:
        """Where the application finds PostgreSQL: a container of its own, or the service `db` of the stack."""
        return "db" if self.database_place == "service" else self.service("db")

    def save(self) -> None:
        """Written whole or not at all, with what readers look for spelled out."""
        document: dict[str, Any] = dataclasses.asdict(self)
        document.update(
            network=self.network,
            prefix=PREFIX,
            registry=self.registry,
            git=self.git_url,
            load_balancer={"host": self.service("lb"), "api": 5007, "web": 3111, "stats": 8404, "admin": 9999},
            database={"host": self.database_host, "port": 5432, "name": "connectin", "user": "connectin"},
        )
        write_private(HOME / "state.json", json.dumps(document, indent=2) + "\n")


def load_state() -> State | None:
    path = HOME / "state.json"
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SandboxError(f"{path} cannot be read ({error}). Start over with: sandbox/sandbox clean") from error
    known = {field.name for field in dataclasses.fields(State)}
    return State(**{key: value for key, value in document.items() if key in known})


def require_state() -> State:
    state = load_state()
    if state is None or not state.hosts:
        raise SandboxError("no sandbox is up in this checkout. Start one with: sandbox/sandbox up --hosts 1")
    return state


def load_secrets() -> dict[str, str]:
    """The generated passwords, made once per checkout: {'registry': .., 'database': ..}."""
    with _secrets_lock:
        return _read_or_make_secrets(HOME / "secrets.json")


def _read_or_make_secrets(path: Path) -> dict[str, str]:
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    made = {"registry": secrets.token_hex(12), "database": secrets.token_hex(12)}
    write_private(path, json.dumps(made) + "\n")
    return made


def write_private(path: Path, text: str) -> None:
    """Replaces the file in one go; only its owner may read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Several threads may write at once.
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def host_names(count: int) -> list[str]:
    return [f"app{number}" for number in range(1, count + 1)]


def container_name(name: str) -> str:
    return f"{PREFIX}-{name}"


def snapshot_name(release: str) -> str:
    """The database that keeps the content right after this release was deployed."""
    return "connectin_snap_" + release.replace(".", "_")


def reference_name(release: str) -> str:
    """The database that was only ever migrated up to this release; it has no rows of the application."""
    return "connectin_ref_" + release.replace(".", "_")
