# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lays a fleet on the disk: for every host a checkout, a .env, a state directory with a ledger, and a Python.

Only what Docker does is simulated. The Python of a host is this machine's, started by a script that puts the simulated
``docker`` first on the PATH, names the host's engine, and writes down what each module's process cost.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from .engine import REGISTRY, SERVICES, build_id, registry

RELEASES = ("v1.0.0", "v1.1.0", "v1.2.0")
BEFORE = "v1.2.0"
TARGET = "v1.1.0"
API_PORT = 5007
WEB_PORT = 3111
FIRST_PORT = 20_000
BIN = Path(__file__).parent / "bin"
# A unix socket's path is at most 107 bytes long (unix(7)).
SOCKET_LIMIT = 107

COMPOSE = """\
name: connectin

services:
  api:
    image: @REGISTRY@/connectin/api:@RELEASE@
    restart: unless-stopped
    environment:
      DATABASE_URL: ${DATABASE_URL}
    ports:
      - "${API_PORT}:5007"

  web:
    image: @REGISTRY@/connectin/web:${WEB_TAG}
    restart: unless-stopped
    environment:
      API_URL: http://api:5007
    ports:
      - "${WEB_PORT}:3111"
"""

PYTHON = """\
#!/usr/bin/env bash
export PATH={bin}:$PATH DOCKER_HOST=unix://{socket} DOCKER_CONFIG={root}/docker BENCH_DOCKER_PORT={port}
{python} "$@"
status=$?
times >>{root}/cpu
exit $status
"""


@dataclass(frozen=True)
class Host:
    """One simulated host; everything it has is below ``root``."""

    name: str
    root: str
    ports: dict[str, int]

    @property
    def project(self) -> str:
        """The Compose project, a git checkout."""
        return f"{self.root}/connectin"

    @property
    def socket(self) -> str:
        """The engine's socket."""
        return f"{self.root}/docker.sock"

    @property
    def state_dir(self) -> str:
        """The ledger and the lock."""
        return f"{self.root}/state"


@dataclass(frozen=True)
class Fleet:
    """A fleet on the disk."""

    folder: Path
    hosts: tuple[Host, ...]
    docker_port: int
    commits: dict[str, str]

    @property
    def description(self) -> Path:
        """The file that the simulator reads."""
        return self.folder / "fleet.json"

    @property
    def inventory(self) -> Path:
        """The inventory that Ansible reads."""
        return self.folder / "inventory.yml"

    @property
    def control(self) -> str:
        """The simulator's control socket."""
        return f"{self.folder}/control"


def lay_out(folder: Path, count: int, module_utils: Any) -> Fleet:
    """Make a fleet of ``count`` hosts that runs BEFORE and once ran TARGET well.

    ``module_utils`` is the collection's package of that name: it writes the ledgers, as a deploy would.
    """
    ports = _free_ports(1 + 2 * count)
    width = len(str(count))
    hosts = tuple(
        Host(
            f"sim{number:0{width}}",
            f"{folder}/h/{number:0{width}}",
            {"api": ports[2 * number - 1], "web": ports[2 * number]},
        )
        for number in range(1, count + 1)
    )
    if len(hosts[-1].socket) > SOCKET_LIMIT:
        raise SystemExit(f"bench: {hosts[-1].socket} is too long for a socket; set TMPDIR to a shorter folder")
    fleet = Fleet(folder, hosts, ports[0], _repository(folder / "connectin.git"))
    for host in hosts:
        _lay_out_host(fleet, host, module_utils)
    described = {
        "releases": RELEASES,
        "docker_port": fleet.docker_port,
        "control": fleet.control,
        "hosts": {host.name: {**asdict(host), "socket": host.socket, "project": host.project} for host in hosts},
    }
    fleet.description.write_text(json.dumps(described), encoding="utf-8")
    fleet.inventory.write_text(yaml.safe_dump(_inventory(fleet), sort_keys=False), encoding="utf-8")
    return fleet


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback address below those that the kernel gives out."""
    found = []
    for port in range(FIRST_PORT, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise SystemExit(f"bench: {count} free ports are needed on 127.0.0.1, and there are {len(found)}")


def git(*args: str, cwd: Path | str | None = None) -> str:
    """The output of git, with nobody's settings."""
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _AUTHOR.items()},
    }
    done = subprocess.run(["git", *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: git {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout.strip()


_AUTHOR = {"NAME": "Bench", "EMAIL": "bench@bench.invalid", "DATE": "2026-01-01T00:00:00Z"}


def _repository(bare: Path) -> dict[str, str]:
    """A repository with one tag for each release; returns their commits."""
    work = bare.with_suffix(".work")
    git("init", "--quiet", "--initial-branch=main", str(work))
    commits = {}
    for release in RELEASES:
        text = COMPOSE.replace("@REGISTRY@", REGISTRY).replace("@RELEASE@", release)
        (work / "docker-compose.yml").write_text(text, encoding="utf-8")
        (work / "package.json").write_text(json.dumps({"name": "connectin", "version": release}), encoding="utf-8")
        (work / ".gitignore").write_text(".env\n", encoding="utf-8")
        git("add", "--all", cwd=work)
        git("commit", "--quiet", "--message", release, cwd=work)
        git("tag", "--annotate", "--message", release, release, cwd=work)
        commits[release] = git("rev-parse", f"{release}^{{commit}}", cwd=work)
    git("clone", "--quiet", "--bare", str(work), str(bare))
    return commits


def env_text(host: Host, release: str) -> str:
    """The .env of a host that runs a release."""
    return (
        f"WEB_TAG={release}\nAPI_PORT={host.ports['api']}\nWEB_PORT={host.ports['web']}\n"
        "DATABASE_URL=postgresql://connectin@db.bench.invalid/connectin\n"
    )


def _lay_out_host(fleet: Fleet, host: Host, module_utils: Any) -> None:
    root = Path(host.root)
    (root / "docker").mkdir(parents=True)
    (root / "tmp").mkdir()
    git("clone", "--quiet", "--shared", str(fleet.folder / "connectin.git"), host.project)
    git("checkout", "--quiet", "--detach", BEFORE, cwd=host.project)
    Path(host.project, ".env").write_text(env_text(host, BEFORE), encoding="utf-8")
    python = root / "python3"
    # A virtual environment's Python is a link and finds its packages by the name it is called by: never resolved.
    python.write_text(
        PYTHON.format(bin=BIN, socket=host.socket, root=root, port=fleet.docker_port, python=sys.executable),
        encoding="utf-8",
    )
    python.chmod(0o755)
    _enter_releases(host, module_utils)


def _enter_releases(host: Host, module_utils: Any) -> None:
    """The ledger says of every release that it ran here and was good, with its digests and its .env."""
    images = registry(RELEASES)
    state_dir = module_utils._state_dir
    state_dir.make_directory(host.state_dir)
    state_dir.make_directory(f"{host.state_dir}/releases")
    lines = []
    for day, release in enumerate(RELEASES, start=1):
        named = {service: images[f"{REGISTRY}/connectin/{service}:{release}"] for service in SERVICES}
        entry = module_utils._ledger.Entry(
            kind="release",
            release=release,
            at=f"2026-01-0{day}T00:00:00Z",
            verdict="good",
            services={
                service: {
                    "image": image.reference,
                    "digest": image.digest,
                    "image_id": image.identifier,
                    "build_id": build_id(release) if service == "web" else "",
                }
                for service, image in named.items()
            },
            who="bench",
            why="deployed",
        )
        lines.append(module_utils._ledger.appended("", entry))
        state_dir.make_directory(f"{host.state_dir}/releases/{release}")
        state_dir.write_atomic(f"{host.state_dir}/releases/{release}/env", env_text(host, release).encode())
    state_dir.append_text(f"{host.state_dir}/ledger.jsonl", "".join(lines))


def _inventory(fleet: Fleet) -> dict[str, Any]:
    def variables(host: Host) -> dict[str, Any]:
        return {
            "ansible_python_interpreter": f"{host.root}/python3",
            "ansible_remote_tmp": f"{host.root}/tmp",
            "rollback_project_dir": host.project,
            "rollback_state_dir": host.state_dir,
            "rollback_api_port": host.ports["api"],
            "rollback_web_port": host.ports["web"],
        }

    return {
        "connectin": {
            "hosts": {host.name: variables(host) for host in fleet.hosts},
            "vars": {
                "ansible_connection": "local",
                "ansible_host": "127.0.0.1",
                "ansible_pipelining": True,
                "ansible_become": False,
                # The way without migrations.
                "rollback_migrations_path": "",
                "rollback_min_free_mb": 64,
                "rollback_who": "bench",
            },
        }
    }
