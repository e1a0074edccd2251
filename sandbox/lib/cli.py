"""The commands of the sandbox."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence

from . import database, fleet, services
from .config import (
    DEPLOYED,
    HEALTHY,
    HOME,
    INVENTORY,
    PREFIX,
    RELEASES,
    State,
    container_name,
    load_state,
    require_state,
)
from .containers import ensure_network, remove, remove_network, sandbox_containers, sandbox_volumes
from .images import ensure_images, image_name, remove_images
from .machine import ensure_engine, ensure_keys
from .releases import build, ensure_repository, push_again
from .shell import SandboxError, fail, in_parallel, say, step

# What the next `up` need not make again: the registry's content, the git repository, the build cache.
KEPT_VOLUMES = ("registry", "ci-git", "ci-docker")
WEB_HELP = "what the web frontend runs from, from now on: its image, a kept build, or its image behind a proxy"


def up(arguments: argparse.Namespace) -> None:
    """Everything runs; the fleet has lived through the releases in order and stands at the last of them."""
    started = time.monotonic()
    place = arguments.database
    state = load_state() or State(database_place=place or "apart")
    if place and state.hosts and place != state.database_place:
        raise SandboxError(
            f"this sandbox runs with --database {state.database_place}. Take it down first: sandbox/sandbox down"
        )
    state.database_place = place or state.database_place
    if state.database_place == "service" and arguments.hosts > 1:
        raise SandboxError("--database service keeps the database on app1, so there can be one host only: --hosts 1")
    ensure_engine()
    ensure_keys()
    ensure_images()
    ensure_network(state)
    state.save()
    in_parallel(
        [
            lambda: services.ensure_registry(state),
            lambda: services.ensure_database(state),
            lambda: services.ensure_build_machine(state),
            lambda: fleet.ensure_hosts(state, arguments.hosts),
        ]
    )
    services.ensure_load_balancer(state)
    ensure_repository(state)
    services.load_image_into_ci(state, image_name("node"), "connectin/node:20")
    if state.database_place == "service":
        services.load_image_into_ci(state, image_name("services"), "connectin/postgres:17")
        services.push_image(state, "connectin/postgres:17")
    fleet.write_inventory(state)
    _bring_to_last_release(state)
    say(f"the sandbox is up after {time.monotonic() - started:.0f} s")
    for line in [*fleet.status_lines(state), *_addresses(state)]:
        say("  " + line)


def _bring_to_last_release(state: State) -> None:
    new = [name for name in state.hosts if name not in state.deployed]
    if state.snapshots_of == state.app_digest:
        in_parallel([lambda name=name: fleet.provision(state, name) for name in new])
        if not state.deployed:
            fleet.restore(state, DEPLOYED[-1], keep_state=False)
        elif new:
            fleet.join(state, next(iter(state.deployed.values())), new)
        return
    in_parallel([lambda name=name: fleet.start_afresh(state, name) for name in state.hosts])
    builder = _Builder(state)
    builder.start()
    state.snapshots, state.snapshots_of, state.deployed = [], "", {}
    if state.database_place == "service":
        builder.wait_for(DEPLOYED[0])
        fleet.start_database(state, DEPLOYED[0])
    database.create_empty(state)
    for release in DEPLOYED:
        builder.wait_for(release)
        fleet.deploy(state, release, list(state.hosts))
        fleet.seed(state, release)
        database.take_snapshot(state, release)
    builder.wait_for(RELEASES[-1])
    state.snapshots_of = state.app_digest
    state.save()


class _Builder(threading.Thread):
    """Builds the releases in order while the ones before are being deployed."""

    def __init__(self, state: State) -> None:
        super().__init__(daemon=True)
        self._state = state
        self._done = {release: threading.Event() for release in RELEASES}
        self._error: SandboxError | None = None

    def run(self) -> None:
        try:
            for release in RELEASES:
                build(self._state, release)
                # Builds on the hosts start from it. Its layers are there with the first release, so it costs nothing.
                services.push_image(self._state, "connectin/node:20")
                self._done[release].set()
        except SandboxError as error:
            self._error = error
            for event in self._done.values():
                event.set()

    def wait_for(self, release: str) -> None:
        self._done[release].wait()
        if self._error:
            raise self._error


def _addresses(state: State) -> list[str]:
    balancer = state.service("lb")
    return [
        f"web http://{balancer}:3111  API http://{balancer}:5007  load balancer http://{balancer}:8404/",
        f"registry {state.registry}  git {state.git_url}  database {state.database_host}:5432",
        "next: sandbox/sandbox status | restore RELEASE | deploy RELEASE | sh app1 COMMAND | down",
    ]


def down(_arguments: argparse.Namespace) -> None:
    """No container and no network is left; images and the build cache stay for the next `up`."""
    state = load_state()
    with step("remove the containers, their data and the network"):
        in_parallel([lambda name=name: remove(name) for name in sandbox_containers()])
        for volume in sandbox_volumes():
            if volume not in KEPT_VOLUMES:
                remove("none", [volume])
        remove_network(state or State())
    INVENTORY.unlink(missing_ok=True)
    if state:
        state.hosts, state.deployed, state.snapshots, state.snapshots_of = {}, {}, [], ""
        state.database_place = "apart"
        state.save()


def clean(arguments: argparse.Namespace) -> None:
    """Nothing of the sandbox is left but the packages that were installed on the machine."""
    down(arguments)
    with step("remove volumes, images and .sandbox"):
        remove("none", sandbox_volumes())
        remove_images()
        shutil.rmtree(HOME, ignore_errors=True)


def _complete_state() -> State:
    state = require_state()
    if not state.snapshots_of:
        raise SandboxError("this sandbox has not come up whole. Go on with: sandbox/sandbox up")
    return state


def deploy(arguments: argparse.Namespace) -> None:
    state = _complete_state()
    hosts = arguments.hosts.split(",") if arguments.hosts else list(state.hosts)
    unknown = [name for name in hosts if name not in state.hosts]
    if unknown:
        raise SandboxError(f"no such host: {', '.join(unknown)}. There are: {', '.join(state.hosts)}")
    _choose_web(state, arguments.web)
    fleet.deploy(state, arguments.release, hosts)


def restore(arguments: argparse.Namespace) -> None:
    """Back to right after the release; one that was never deployed here is deployed on the last that was."""
    started = time.monotonic()
    state = _complete_state()
    release = arguments.release
    services.revive_services(state)
    _choose_web(state, arguments.web)
    push_again(state)
    if release in state.snapshots:
        fleet.restore(state, release, keep_state=arguments.keep_state)
    else:
        fleet.restore(state, DEPLOYED[-1], keep_state=arguments.keep_state)
        fleet.deploy(state, release, list(state.hosts))
        database.take_snapshot(state, release)
    services.undrain(state)
    if release in HEALTHY:
        services.wait_for_servers(state)
    say(f"restored {release} after {time.monotonic() - started:.1f} s")


def _choose_web(state: State, wanted: str | None) -> None:
    """What the web frontend runs from, now and later; the proxy's image is pushed when somebody wants it."""
    state.web = wanted or state.web
    if state.web == "proxy":
        services.load_image_into_ci(state, image_name("services"), "connectin/haproxy:3")
        services.push_image(state, "connectin/haproxy:3")


def status(_arguments: argparse.Namespace) -> None:
    state = require_state()
    for line in [*fleet.status_lines(state), *_addresses(state)]:
        say(line)


def shell(arguments: argparse.Namespace) -> None:
    """Runs a command on a host as root, in place of this process."""
    require_state()
    command = arguments.command or ["bash"]
    terminal = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else ["-i"]
    os.execvp("docker", ["docker", "exec", *terminal, container_name(arguments.host), *command])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandbox/sandbox", description=f"A small real ConnectIn on this machine (containers {PREFIX}-*)."
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], None], name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(function=function)
        return made

    made = command(up, "up", "start everything; what runs already is left alone")
    made.add_argument("--hosts", type=int, default=1, metavar="N", help="hosts of the fleet (default: 1)")
    made.add_argument(
        "--database", choices=["apart", "service"], help="PostgreSQL in its own container (default), or in the stack"
    )
    command(down, "down", "remove containers, network and data; keep images and the build cache")
    command(clean, "clean", "remove everything, images, volumes and .sandbox too")
    made = command(deploy, "deploy", "deploy a release as a pipeline does")
    made.add_argument("release", choices=RELEASES)
    made.add_argument("--hosts", metavar="app1,app2", help="only these hosts")
    made.add_argument("--web", choices=["image", "artifact", "proxy"], help=WEB_HELP)
    made = command(restore, "restore", "the state right after a release was deployed, quickly")
    made.add_argument("release", choices=RELEASES)
    made.add_argument("--keep-state", action="store_true", help="leave the rollback's own state directory on the hosts")
    made.add_argument("--web", choices=["image", "artifact", "proxy"], help=WEB_HELP)
    command(status, "status", "what runs where")
    made = command(shell, "sh", "run a command on a host as root")
    made.add_argument("host")
    made.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except SandboxError as error:
        fail(str(error))
        return 1
    except BrokenPipeError:
        # the reader, `head` for one, has seen enough; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        fail("interrupted. The same command goes on from here; sandbox/sandbox down removes what is there.")
        return 130
    return 0
