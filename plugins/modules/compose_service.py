#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_service
short_description: Bring Compose services to their new definition beside the containers that run
version_added: 0.1.0
description:
  - Makes the container of the new definition beside the one that runs, which C(docker compose up) does not - it takes
    the old container away first. What the new one has to have before its process starts can be put into it meanwhile.
  - With O(switch=start_first) the new container is healthy before the old one is taken out of the proxy and stopped.
    One that does not become healthy is removed, and the old one serves on.
  - With O(switch=stop_first) the old container is stopped before the new one starts, for services that publish a port
    of the host.
  - A run that was killed is finished by the next one. Both containers may be there meanwhile. Where the module of the
    killed run is still at work on the host, the next one waits for its end.
  - In the end the new container has the name that the old one had.
  - Images are neither pulled nor built, and other services are not touched.
author: ConnectIn operations (@connectin)
extends_documentation_fragment: connectin.rollback.project
options:
  services:
    description:
      - The services. With O(switch=start_first) they are switched one after the other, in this order.
      - With O(switch=stop_first) they are switched at the same time, so the host is without all of them for as long as
        without the slowest.
    type: list
    elements: str
    required: true
  switch:
    description: Whether the new container is started before the old one is stopped, or after.
    type: str
    choices: [stop_first, start_first]
    default: stop_first
  wait_timeout:
    description: Seconds in which a new container has to become healthy.
    type: int
    default: 120
  settle:
    description:
      - With O(switch=start_first), the seconds that the proxy gets to find the new container by its name before the old
        one is taken out, and again between O(drain_command) and the stop. With O(haproxy) it is asked instead.
    type: int
    default: 5
  haproxy:
    description:
      - The runtime API of the proxy, when that is HAProxy, as seen from the host - C(address:port) or the path of a
        unix socket. Its servers are found by the containers' addresses.
      - The new container has to be up there before the old one is drained; that one is stopped when it has no request
        in hand any more.
    type: str
    default: ""
  drain_command:
    description:
      - A command that takes a container out of any other proxy, as a list. C({container}), C({service}) and
        C({address}) in it stand for the id, the service and the first address of the container that will be stopped.
    type: list
    elements: str
    default: []
  assets:
    description:
      - The folder of the static assets in the container, by service. The files in it that the new container lacks are
        copied there from the old one before it starts.
    type: dict
    default: {}
  assets_seconds:
    description:
      - How long the assets of an earlier release are kept at least. They leave with the container; when this module
        replaces it earlier than that, the next one gets them as well.
    type: int
    default: 3600
  evidence_dir:
    description:
      - The folder for what a new container logged that did not become healthy, in a file for root alone. Without it
        nothing is kept of a container that is removed.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and tells which services it would switch.
    support: full
  diff_mode:
    description: Shows the containers of each service before and after.
    support: full
requirements:
  - Docker Compose 2.24 or newer on the host
seealso:
  - module: community.docker.docker_compose_v2
  - module: connectin.rollback.compose_image
"""

EXAMPLES = r"""
- name: Switch the API without a gap behind a proxy that finds it by its name
  connectin.rollback.compose_service:
    project_dir: /srv/connectin
    services: [api]
    switch: start_first
    haproxy: 127.0.0.1:9999
  become: true

- name: Switch the web frontend and go on serving the assets of the release before
  connectin.rollback.compose_service:
    project_dir: /srv/connectin
    services: [web]
    assets:
      web: /app/.next/static
  become: true
"""

RETURN = r"""
services:
  description: What happened to each service, by its name.
  returned: always
  type: dict
  contains:
    changed:
      description: Whether it was switched, or would be.
      type: bool
    container_id:
      description: The container that serves now, empty when there is none.
      type: str
    removed:
      description: The ids of the containers that were removed.
      type: list
      elements: str
    drained:
      description: Whether the proxy showed that the old container had no request in hand when it was stopped.
      type: bool
    assets:
      description: How many files of the old container were put into the new one.
      type: int
    assets_until:
      description: Until when the youngest of them are kept, in seconds since 1970; 0 without any.
      type: float
unhealthy:
  description: The services whose new container did not become healthy.
  returned: always
  type: list
  elements: str
"""

import concurrent.futures
import contextlib
import os
import posixpath
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _compose_service,
    _docker_engine,
    _image_reference,
    _stack,
    _state_dir,
)

# Of assets, which are held in memory twice.
ASSETS_LIMIT = 256 * 1024 * 1024
LOG_LINES = 5000
# A stop waits for the container's own grace period, which may be minutes.
ENGINE_TIMEOUT = 600.0
PROXY_TIMEOUT = 5.0
# A proxy that does not see the new container after this long never will.
PROXY_DEADLINE = 30.0
INTERVAL = 0.1


class Error(Exception):
    """What an operator reads; ``unhealthy`` are the services whose new container is at fault."""

    def __init__(self, message: str, unhealthy: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unhealthy = list(unhealthy)


class HAProxy:
    """The runtime API at ``address:port`` or a unix socket. Methods raise Error when it cannot be used."""

    def __init__(self, place: str) -> None:
        self.place = place

    def ask(self, command: str) -> str:
        """The answer to one command."""
        try:
            if self.place.startswith("/"):
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(PROXY_TIMEOUT)
                connection.connect(self.place)
            else:
                host, _colon, port = self.place.rpartition(":")
                connection = socket.create_connection((host.strip("[]"), int(port)), PROXY_TIMEOUT)
            with connection:
                connection.sendall(f"{command}\n".encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", errors="replace")
        except (OSError, ValueError) as error:
            raise Error(f"HAProxy's runtime API at {self.place} does not answer: {error}.") from error

    def servers(self, addresses: Sequence[str] | None = None) -> list[_compose_service.ProxyServer]:
        """The servers that have one of these addresses; without any given, all."""
        known = _compose_service.proxy_servers(self.ask("show servers state"))
        return [server for server in known if addresses is None or server.address in addresses]

    def set(self, server: _compose_service.ProxyServer, state: str) -> None:
        """Set a server to ``drain`` or ``ready``."""
        answer = self.ask(f"set server {server.backend}/{server.name} state {state}").strip()
        if answer:
            raise Error(f"HAProxy does not set {server.backend}/{server.name} to {state}: {answer}.")

    def sessions(self, servers: Sequence[_compose_service.ProxyServer]) -> int:
        """The requests that these servers have in hand."""
        found = _compose_service.proxy_sessions(self.ask("show stat"))
        return sum(found.get((server.backend, server.name), 0) for server in servers)


def wait_until(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether a condition came true within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(INTERVAL)
    return True


class Project:
    """The Compose project, its definition and the containers that the engine has of it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = module.params
        docker = module.get_bin_path("docker", required=True)
        self.directory = os.path.abspath(params["project_dir"])
        named = ["--project-name", params["project_name"]] if params["project_name"] else []
        chosen = [part for path in params["compose_files"] for part in ("--file", path)]
        self.command = [docker, "compose", "--project-directory", self.directory, *named, *chosen]
        self.engine = self.connect()
        rendered = self.compose("config", "--format", "json")
        self.name = _stack.read_project(rendered).name
        self.services = _compose_service.read_services(rendered)
        self.hashes = _compose_service.read_hashes(self.compose("config", "--hash", "*"))

    @staticmethod
    def connect() -> _docker_engine.Engine:
        """A connection to the host's engine."""
        return _docker_engine.Engine(_docker_engine.socket_path(os.environ.get("DOCKER_HOST", "")), ENGINE_TIMEOUT)

    def compose(self, *words: str) -> str:
        """What ``docker compose`` prints. Raises Error with its own words."""
        rc, out, err = self.module.run_command(
            [*self.command, *words],
            cwd=self.directory,
            environ_update={"LC_ALL": "C", "LANGUAGE": "C"},
            expand_user_and_vars=False,
        )
        if rc != 0:
            lines = [line.strip() for line in err.splitlines() if line.strip() and "level=warning" not in line]
            raise Error(f"docker compose {words[0]} failed: {'; '.join(lines[-2:]) or f'exit status {rc}'}.")
        return out

    def wanted(self, service: str) -> _compose_service.Wanted:
        """The service as it is defined now."""
        if service not in self.services:
            raise Error(f"the Compose project has no service {service}; found {', '.join(sorted(self.services))}.")
        defined = self.services[service]
        image = str(defined.get("image") or f"{self.name}-{service}")
        found = self.engine.image(image) or {}
        return _compose_service.Wanted(
            self.hashes.get(service, ""),
            image,
            str(found.get("Id") or ""),
            _compose_service.replicas(defined),
            str(defined.get("container_name") or ""),
        )

    def members(self, service: str, wanted: _compose_service.Wanted) -> _compose_service.Members:
        """The containers of a service, as they are now."""
        inspected = self.engine.containers(f"{_stack.PROJECT_LABEL}={self.name}")
        found = _stack.by_service(inspected, self.name, self.directory).get(service, [])
        return _compose_service.divide([_compose_service.member(one) for one in found], wanted)

    def create(self, numbers: Mapping[str, int]) -> None:
        """Make the containers that lack, up to so many of each service, without starting them or touching others."""
        options = ["--no-start", "--no-recreate", "--no-deps", "--no-build", "--pull", "never"]
        scales = [word for service, number in numbers.items() for word in ("--scale", f"{service}={number}")]
        self.compose("up", *options, *scales, "--", *numbers)


class Switch:
    """One service on its way."""

    def __init__(self, project: Project, service: str) -> None:
        self.project = project
        # A connection of its own: services are stopped and started at the same time.
        self.engine = project.connect()
        self.params = project.module.params
        self.service = service
        self.start_first = self.params["switch"] == "start_first"
        self.wanted = project.wanted(service)
        self.members = project.members(service, self.wanted)
        self.proxy = HAProxy(self.params["haproxy"]) if self.params["haproxy"] and self.start_first else None
        self.result = {
            "changed": self.outdated(),
            "container_id": next((one.id for one in self.members.current), ""),
            "removed": [],
            "drained": False,
            "assets": 0,
            "assets_until": 0.0,
        }
        self.before = [f"{one.name} {one.state}" for one in self.members.current + self.members.old]
        self.started = 0.0

    def outdated(self) -> bool:
        """Whether something is to be done."""
        ready = [one for one in self.members.current if _compose_service.readiness(one) == "ready"]
        return bool(self.members.old) or len(ready) < self.wanted.replicas

    def check(self) -> None:
        """What must not be found out halfway."""
        if not self.wanted.image_id:
            raise Error(f"{self.wanted.image} is not on this host. docker pull {self.wanted.image}")
        if self.members.old and self.wanted.container_name:
            raise Error(
                f"service {self.service} has container_name: {self.wanted.container_name}, and two containers cannot "
                "have one name. Remove it from the compose file."
            )

    def read_created(self) -> None:
        """Look at the containers again once those that lacked were made."""
        self.members = self.project.members(self.service, self.wanted)
        if len(self.members.current) < self.wanted.replicas:
            raise Error(
                f"Compose made no new container of {self.service}. docker compose -p {self.project.name} ps --all"
            )

    def carry_assets(self) -> None:
        """Put the old container's assets into the new ones; only a process that has not started yet will see them."""
        path = str(self.params["assets"].get(self.service) or "").rstrip("/")
        fresh = [one for one in self.members.current if not one.running]
        # The one that serves, or did so last.
        source = next(iter(sorted(self.members.old, key=lambda one: (one.running, one.created), reverse=True)), None)
        if not path or not fresh or source is None:
            return
        before = self.engine.folder(source.id, path, ASSETS_LIMIT)
        listed = posixpath.join(posixpath.dirname(path), _compose_service.CARRIED_FILE)
        if before is None:
            self.project.module.warn(
                f"the container {source.name} has no folder {path} of at most {ASSETS_LIMIT // 2**20} MB; the assets "
                "of the release before are not served on"
            )
            return
        carried = _compose_service.carry(
            _compose_service.archive_files(before),
            _compose_service.read_carried(self.engine.read_file(source.id, listed) or ""),
            time.time(),
            self.params["assets_seconds"],
        )
        for one in fresh:
            own = self.engine.folder(one.id, path, ASSETS_LIMIT)
            present = _compose_service.archive_files(own) if own is not None else []
            archive, count = _compose_service.overlap_archive(before, present, carried)
            self.engine.unpack(one.id, posixpath.dirname(path), archive)
            self.result["assets"] = count
            self.result["assets_until"] = max((row.until for row in carried), default=0.0)

    def turn_over(self) -> None:
        """Start the new containers, the old ones being stopped before unless they serve on. Runs in its own thread."""
        if not self.start_first:
            self.stop_old()
        for one in self.members.current:
            self.engine.start(one.id)
        self.started = time.monotonic()

    def await_new(self) -> None:
        """Wait until the new containers are healthy; with the old ones serving, one that failed is removed."""
        end = self.started + self.params["wait_timeout"]
        waiting = {one.id for one in self.members.current}
        while waiting:
            for identifier in sorted(waiting):
                inspected = self.engine.container(identifier)
                seen = _compose_service.member(inspected) if inspected else None
                ready = _compose_service.readiness(seen) if seen else "failed"
                if ready == "ready":
                    waiting.discard(identifier)
                elif ready == "failed" or time.monotonic() >= end:
                    self.give_up(identifier, seen)
            if waiting:
                time.sleep(INTERVAL)
        self.members = self.project.members(self.service, self.wanted)
        self.result["container_id"] = self.members.current[0].id

    def give_up(self, identifier: str, seen: _compose_service.Member | None) -> None:
        """Raise Error with what the container said."""
        found = f"{seen.state}{f', {seen.health}' if seen.health else ''}" if seen else "gone"
        kept = self.keep_log(identifier)
        tag = _image_reference.parse(self.wanted.image).tag or "new"
        message = (
            f"the {tag} container of {self.service} did not become healthy within {self.params['wait_timeout']} s: it "
            f"is {found}."
        )
        serving = [one for one in self.members.old if one.running]
        if self.start_first and serving:
            for one in self.members.current:
                self.engine.remove(one.id)
                self.result["removed"].append(one.id)
            self.result["container_id"] = serving[0].id
            message += f" It was removed, and {serving[0].name} serves on."
        else:
            message += f" docker logs {seen.name if seen else identifier[:12]}"
        raise Error(message + (f" What it logged: {kept}" if kept else ""), [self.service])

    def keep_log(self, identifier: str) -> str:
        """Write what a container logged to the evidence, and return where; '' where none is kept.

        It is no part of the results: what an application logs may hold secrets.
        """
        directory = self.params["evidence_dir"]
        if not directory:
            return ""
        path = os.path.join(directory, f"{self.service}-target.log")
        try:
            _state_dir.make_directory(directory)
            inspected = self.engine.container(identifier) or {}
            logged = self.engine.logs(identifier, LOG_LINES, bool((inspected.get("Config") or {}).get("Tty")))
            _state_dir.write_atomic(path, logged.encode("utf-8", "replace"))
        except (_docker_engine.EngineError, _state_dir.StateDirError, OSError) as error:
            self.project.module.warn(f"What {self.service} logged could not be kept: {error}")
            return ""
        return path

    def stop_old(self) -> None:
        """Stop what has the old definition; nothing brings it back, since whoever stops a container means it."""
        for one in self.members.old:
            self.engine.stop(one.id)

    def remove_old(self) -> None:
        """Take the old containers out of the proxy, let them end what they have in hand, and remove them."""
        if self.start_first:
            self.drain([one for one in self.members.old if one.running])
        self.stop_old()
        self.release()
        free = [one.name for one in self.members.old]
        for one in self.members.old:
            self.engine.remove(one.id)
            self.result["removed"].append(one.id)
        # A runbook that says `docker logs connectin-web-1` goes on being true.
        for one, name in zip(self.members.current, sorted(free, key=len)):
            if one.name not in free:
                self.engine.rename(one.id, name)

    def drain(self, leaving: Sequence[_compose_service.Member]) -> None:
        """No new request reaches these containers any more, and none is in hand as far as the proxy tells."""
        if not leaving:
            return
        if self.proxy is not None:
            self.drain_haproxy(self.proxy, [address for one in leaving for address in one.addresses])
            return
        # Nobody tells whether the proxy has found the new container, or has let go of the old one.
        time.sleep(self.params["settle"])
        if self.params["drain_command"]:
            for one in leaving:
                self.command(one)
            time.sleep(self.params["settle"])

    def drain_haproxy(self, proxy: HAProxy, old: Sequence[str]) -> None:
        """The same, with the proxy telling when."""
        new = [address for one in self.members.current for address in one.addresses]
        backends = {server.backend for server in proxy.servers(old)}

        def found() -> bool:
            servers = proxy.servers(new)
            for server in servers:
                # The place of a container that a killed run drained; this one is there to serve.
                if server.drained:
                    proxy.set(server, "ready")
            return backends <= {server.backend for server in servers if server.up}

        if not wait_until(found, PROXY_DEADLINE):
            raise Error(
                f"HAProxy at {proxy.place} does not find the new container of {self.service} healthy within "
                f"{PROXY_DEADLINE:g} s; both containers run. Run it again when the proxy resolves the service's name."
            )
        leaving = proxy.servers(old)
        for server in leaving:
            proxy.set(server, "drain")
        self.result["drained"] = bool(leaving) and wait_until(lambda: proxy.sessions(leaving) == 0, PROXY_DEADLINE)

    def release(self) -> None:
        """Give drained places back, since the proxy uses them for later containers.

        Before the stopped containers are removed, so that a run that is killed here finds out when it is run again.
        """
        if self.proxy is None:
            return
        proxy = self.proxy
        new = [address for one in self.members.current for address in one.addresses]
        backends = {server.backend for server in proxy.servers(new)}

        def places() -> list[_compose_service.ProxyServer]:
            return [server for server in proxy.servers() if server.backend in backends and server.drained]

        wait_until(lambda: not any(server.running for server in places()), PROXY_DEADLINE)
        for server in places():
            if not server.running:
                proxy.set(server, "ready")

    def command(self, one: _compose_service.Member) -> None:
        """Run the command that takes a container out of a proxy."""
        places = {"{container}": one.id, "{service}": self.service, "{address}": (one.addresses or ("",))[0]}
        words = list(self.params["drain_command"])
        for place, value in places.items():
            words = [word.replace(place, value) for word in words]
        rc, _out, err = self.project.module.run_command(words, cwd=self.project.directory, expand_user_and_vars=False)
        if rc != 0:
            raise Error(
                f"{words[0]} did not take {one.name} out of the proxy (exit status {rc}): {err.strip()[:200]}. Both "
                "containers run; run it again when it works."
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path", "required": True},
            "compose_files": {"type": "list", "elements": "path", "default": []},
            "project_name": {"type": "str", "default": ""},
            "services": {"type": "list", "elements": "str", "required": True},
            "switch": {"type": "str", "choices": ["stop_first", "start_first"], "default": "stop_first"},
            "wait_timeout": {"type": "int", "default": 120},
            "settle": {"type": "int", "default": 5},
            "haproxy": {"type": "str", "default": ""},
            "drain_command": {"type": "list", "elements": "str", "default": []},
            "assets": {"type": "dict", "default": {}},
            "assets_seconds": {"type": "int", "default": 3600},
            "evidence_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "services": {}, "unhealthy": [], "diff": []}
    try:
        if not os.path.isdir(module.params["project_dir"]):
            raise Error(f"there is no directory {module.params['project_dir']}. Set rollback_project_dir.")
        # What a killed controller had begun goes on by itself on the host: the run that takes it up waits for its end.
        with contextlib.nullcontext() if module.check_mode else _state_dir.exclusive(module.params["project_dir"]):
            bring(module, result)
    except Error as error:
        module.fail_json(msg=str(error), **{**result, "unhealthy": error.unhealthy})
    except _state_dir.StateDirError as error:
        module.fail_json(msg=str(error), **result)
    except _docker_engine.EngineError as error:
        module.fail_json(msg=f"the Docker Engine refused: {error}. journalctl -u docker -n 50", **result)
    module.exit_json(**result)


def bring(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Look at all services before the first is touched, then switch them; the result grows with them."""
    project = Project(module)
    switches = [Switch(project, service) for service in module.params["services"]]
    for switch in switches:
        if switch.result["changed"]:
            switch.check()
    due = [switch for switch in switches if switch.result["changed"]]
    result["services"].update({switch.service: switch.result for switch in switches if switch not in due})
    if not due:
        return
    # Behind a proxy each old container serves until its own successor is healthy; without one, all are away together.
    for together in [[switch] for switch in due] if due[0].start_first else [due]:
        result["changed"] = True
        result["services"].update({switch.service: switch.result for switch in together})
        result["diff"] += [difference(switch) for switch in together]
        if not module.check_mode:
            replace(project, together)


def replace(project: Project, switches: Sequence[Switch]) -> None:
    """Bring services to their definition, their old containers being away at the same time, if at all."""
    lacking = {
        switch.service: len(switch.members.old) + switch.wanted.replicas
        for switch in switches
        if len(switch.members.current) < switch.wanted.replicas
    }
    if lacking:
        project.create(lacking)
    for switch in switches:
        switch.read_created()
        switch.carry_assets()
    # A stop may take the container's whole grace period; the other services do not wait for it.
    with concurrent.futures.ThreadPoolExecutor(len(switches)) as pool:
        for ended in [pool.submit(switch.turn_over) for switch in switches]:
            ended.result()
    failed = []
    for switch in switches:
        try:
            switch.await_new()
        except Error as error:
            failed.append(error)
    if failed:
        raise Error(" ".join(map(str, failed)), [service for error in failed for service in error.unhealthy])
    for switch in switches:
        switch.remove_old()


def difference(switch: Switch) -> dict[str, str]:
    """The service's containers before, and the image that all of them have after."""
    after = [f"{switch.wanted.image} running"] * switch.wanted.replicas
    return {
        "before_header": f"containers of {switch.service}",
        "after_header": f"containers of {switch.service}",
        "before": "".join(f"{line}\n" for line in switch.before),
        "after": "".join(f"{line}\n" for line in after),
    }


if __name__ == "__main__":
    main()
