#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: Read everything about the stack of one host that a rollback has to know
version_added: 0.1.0
description:
  - Reads the Compose project, the running containers, the images, the git checkout, the ledger, the lock, the disk and
    the health of one host, all in one task.
  - Changes nothing, on the host or elsewhere. What a release contains is learned from the ledger, the remote's refs and
    the registry's manifests.
  - Whatever stands in the way of a rollback is a refusal with a reason and the next command to type. All of them are
    returned at once, and none of them fails the task.
  - No value of C(.env) is ever returned, only the names of those that differ.
author: ConnectIn operations (@connectin)
extends_documentation_fragment: connectin.rollback.project
options:
  project_dir:
    description: The directory of the Compose project, which is the git checkout of the application.
    type: path
    required: true
  services:
    description:
      - The services to read, by name. Each is a dictionary with C(health_url), a URL that the host itself can read, and
        C(build_id_path), a file in the container that holds the id of the build.
      - One whose image is only a runtime also has C(artifacts_dir), the directory of its kept builds. There is a folder
        for each release in it, and a link C(current) to the one that is served.
      - Each key may be left out or empty.
    type: dict
    required: true
  release:
    description: The release to go to, V(previous) for the newest other one that the ledger calls good, empty for none.
    type: str
    default: ""
  image_source:
    description: Whether images are pulled from a registry or built on the host.
    type: str
    choices: [registry, build]
    default: registry
  state_dir:
    description: The directory of the ledger and the lock.
    type: path
    default: /var/lib/connectin-rollback
  min_free_mb:
    description: How many megabytes the engine's disk needs when an image has to be pulled or built.
    type: int
    default: 2048
  migrations_path:
    description: The directory of Prisma's migrations in the repository; empty for none.
    type: str
    default: apps/api/prisma/migrations
  run_id:
    description: The run that asks. A lock that it holds itself is no refusal.
    type: str
    default: ""
  smoke_script:
    description: The npm script that tests a running release.
    type: str
    default: test:smoke
  git:
    description: Whether the project is a git checkout.
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check mode and reads just the same.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
seealso:
  - module: connectin.rollback.compose_image
  - module: connectin.rollback.release_ledger
  - module: connectin.rollback.rollback_lock
"""

EXAMPLES = r"""
- name: Read the stack and what stands in the way of the last good release
  connectin.rollback.stack_info:
    project_dir: /srv/connectin
    services:
      api:
        health_url: http://127.0.0.1:3000/health
      web:
        health_url: http://127.0.0.1:3001/
        build_id_path: /app/.next/BUILD_ID
    release: previous
  become: true
  register: stack
"""

RETURN = r"""
refusals:
  description: Why a rollback cannot start on this host, empty when nothing is in the way.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A name for the reason.
      type: str
      sample: image_missing
    message:
      description: What was found.
      type: str
      sample: registry.example.com/connectin/api:v1.4.2 is not in the registry, and it is not on this host
    next:
      description: What to type next.
      type: str
      sample: docker push registry.example.com/connectin/api:v1.4.2
target:
  description: The release to go to, empty when none was asked for or V(previous) leads to none.
  returned: always
  type: str
  sample: v1.4.2
engine:
  description: The Docker Engine.
  returned: always
  type: dict
  contains:
    version:
      description: Its version, empty when it does not answer.
      type: str
      sample: 26.1.5
    root_dir:
      description: Where it keeps images and volumes.
      type: str
      sample: /var/lib/docker
    free_mb:
      description: The megabytes free there, null when not known.
      type: int
      sample: 40960
compose:
  description: The Compose project.
  returned: always
  type: dict
  contains:
    version:
      description: The version of the Compose plugin, empty without one.
      type: str
      sample: 2.26.1
    project:
      description: The name of the project, empty when it cannot be read.
      type: str
      sample: connectin
    files:
      description: The compose files.
      type: list
      elements: str
      sample: [/srv/connectin/docker-compose.yml]
    services:
      description: All services of the project.
      type: list
      elements: str
      sample: [api, web]
services:
  description: The services that were asked for, by name.
  returned: always
  type: dict
  contains:
    configured_image:
      description: The image that the compose files name now, variables filled in; empty when there is none.
      type: str
      sample: registry.example.com/connectin/api:v1.4.3
    target_image:
      description: The same repository with the target as its tag, empty without a target.
      type: str
      sample: registry.example.com/connectin/api:v1.4.2
    target_digest:
      description: The digest of that image as the ledger has it, else the registry, else the host; empty when unknown.
      type: str
      sample: sha256:3f1c9b52a0f4b1c83b1c0c6d0dc1b6d86c0b7c1fd3a1ec8b1b2f0c34d7a65e90
    target_local:
      description: Whether that image is on the host.
      type: bool
    running:
      description: The service's container, whatever its state, null when there is none.
      type: dict
      contains:
        container_id:
          description: Its id.
          type: str
        name:
          description: Its name.
          type: str
          sample: connectin-api-1
        state:
          description: The engine's word for its state.
          type: str
          sample: running
        health:
          description: The result of its health check, empty without one.
          type: str
          sample: healthy
        restarts:
          description: How often the engine restarted it.
          type: int
          sample: 0
        started_at:
          description: When it was started last.
          type: str
          sample: "2026-05-03T09:00:00.1Z"
        image:
          description: The image that it was made from, as it was named then.
          type: str
          sample: registry.example.com/connectin/api:v1.4.3
        image_id:
          description: The id of that image.
          type: str
        repo_digests:
          description: The digests under which registries know that image.
          type: list
          elements: str
    others:
      description: The service's other containers that run, each as C(running); a switch that was killed may leave one.
      type: list
      elements: dict
    definition:
      description: What decides how the container can be replaced, as the project defines it, null when not known.
      type: dict
      contains:
        published:
          description: The ports of the host that it publishes.
          type: list
          elements: str
          sample: ["3111"]
        host_network:
          description: Whether it uses the host's own network, where every port is one of the host.
          type: bool
        container_name:
          description: The fixed name of its container, empty without one.
          type: str
        replicas:
          description: How many containers it has.
          type: int
          sample: 1
        read_only:
          description: Whether the container's root filesystem is read-only.
          type: bool
        callers:
          description: The other services whose environment has a URL with this one's name as its host.
          type: list
          elements: str
          sample: [web]
    build_id:
      description: >-
        The content of C(build_id_path) in the container, for kept builds that of the one that is linked; empty when
        there is none.
      type: str
      sample: kHc2vXoWqyYtPR1lS3zUe
    artifact:
      description: The kept builds of a service with C(artifacts_dir), null for one whose releases are images.
      type: dict
      contains:
        current:
          description: The release that the link C(current) names, empty when there is none.
          type: str
          sample: v1.4.3
        target_build_id:
          description: The C(.next/BUILD_ID) of the target's build, empty when there is none.
          type: str
        target_served:
          description: Whether the service hands out the target's build; the link may have moved under it.
          type: bool
    health:
      description: What C(health_url) answers, null when there is no such URL.
      type: dict
      contains:
        status:
          description: The HTTP status, 0 without an answer.
          type: int
          sample: 503
        body:
          description: The answer as a JSON object, null when it is none.
          type: dict
        error:
          description: Why there is no answer, empty when there is one.
          type: str
containers:
  description: The addresses of the running containers of every service of the project, by service.
  returned: always
  type: dict
  sample:
    api: [172.18.0.3]
    db: [172.18.0.2]
git:
  description: The checkout.
  returned: always
  type: dict
  contains:
    head:
      description: The commit that is checked out, empty when not known.
      type: str
    head_tags:
      description: The tags of that commit.
      type: list
      elements: str
      sample: [v1.4.3]
    branch:
      description: The branch, empty when none is checked out.
      type: str
    tags:
      description: The newest 20 tags, newest first.
      type: list
      elements: str
    local_changes:
      description: Tracked files that somebody changed, from the top of the checkout.
      type: list
      elements: str
    pins:
      description: Tracked files that hold what this collection wrote there, as the ledger knows.
      type: list
      elements: str
      sample: [docker-compose.yml]
    target_commit:
      description: The commit of the target, from the local tag, else from the remote; empty when not known.
      type: str
    target_local:
      description: Whether the target's tag is in the checkout.
      type: bool
    target_on_remote:
      description: Whether the remote has the target's tag, null when it was not asked or did not answer.
      type: bool
    target_migrations:
      description: The migrations of the target, null when not known.
      type: list
      elements: str
    head_migrations:
      description: The migrations of the commit that is checked out, null when not known.
      type: list
      elements: str
    smoke:
      description: Whether the target, or without one what is checked out, has O(smoke_script).
      type: bool
ledger:
  description: The record of this host.
  returned: always
  type: dict
  contains:
    releases:
      description: The releases that ran here, the one that came last first.
      type: list
      elements: dict
    current:
      description: The release that came last, empty when none is recorded.
      type: str
      sample: v1.4.3
    previous:
      description: The newest good release other than the one that runs, empty when there is none.
      type: str
      sample: v1.4.2
    frozen:
      description: Why deploys have to wait since a rollback, null when they need not.
      type: dict
      contains:
        release:
          description: The release that the host was taken back to.
          type: str
          sample: v1.4.2
        at:
          description: Since when, in UTC.
          type: str
          sample: "2026-05-04T03:02:01Z"
        who:
          description: Who froze them.
          type: str
          sample: alice
        why:
          description: The reason.
          type: str
          sample: v1.4.3 answers 503 on /health
        run_id:
          description: The rollback run, empty when they were frozen by hand.
          type: str
          sample: 20260504T030201Z-7c1e
lock:
  description: The rollback lock, with C(held), C(run_id), C(owner), C(reason), C(since) and C(expires).
  returned: always
  type: dict
run:
  description: What an earlier try of O(run_id) kept on this host, with its C(plan); null where there is none.
  returned: always
  type: dict
env:
  description: The C(.env) file of the project.
  returned: always
  type: dict
  contains:
    sha256:
      description: Its hash, empty when there is no such file.
      type: str
    differs:
      description: The names whose values differ from the copy that was kept with the target.
      type: list
      elements: str
      sample: [WEB_TAG]
clock:
  description: The host's time in seconds since 1970.
  returned: always
  type: float
"""

import contextlib
import getpass
import hashlib
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _compose_file,
    _docker_engine,
    _env_file,
    _git,
    _image_reference,
    _ledger,
    _lock,
    _registry_auth,
    _stack,
    _state_dir,
)

try:
    import yaml
except ImportError:
    yaml = None

HEALTH_TIMEOUT = 3.0
HEALTH_LIMIT = 64 * 1024
REGISTRY_TIMEOUT = 10.0
REMOTE_TIMEOUT = 15
SERVICE_KEYS = ("health_url", "build_id_path", "artifacts_dir")


def user_name() -> str:
    """The user of this process, for a command that grants it something."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def read_health(url: str) -> dict[str, Any]:
    """Ask a URL once: ``{status, body, error}``, body None unless it is a JSON object. Never raises."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        return {"status": 0, "body": None, "error": f"{url} is no URL: {error}"}
    if parts.scheme == "https":
        # The certificate is that of the public name, never of the loopback address: it proves nothing here.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", port, timeout=HEALTH_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=HEALTH_TIMEOUT)
    try:
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", path, headers={"Accept": "application/json, */*"})
        response = connection.getresponse()
        content = response.read(HEALTH_LIMIT)
    except socket.timeout:
        return {"status": 0, "body": None, "error": f"no answer within {HEALTH_TIMEOUT:g} s"}
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__} {error}"
        return {"status": 0, "body": None, "error": said.strip()}
    finally:
        connection.close()
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    return {"status": response.status, "body": body if isinstance(body, dict) else None, "error": ""}


class Background:
    """Questions that may take their time, asked in threads; one that does not return in time gets ``late``."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}
        self._threads: dict[str, threading.Thread] = {}

    def ask(self, name: str, question: Callable[[], Any]) -> None:
        """Start a question."""

        def answer() -> None:
            self._results[name] = question()

        # A thread that hangs must not keep the module from ending.
        self._threads[name] = threading.Thread(target=answer, daemon=True)
        self._threads[name].start()

    def answer(self, name: str, deadline: float, late: Any) -> Any:
        """The answer to a question, waiting for it until the monotonic time ``deadline``."""
        self._threads[name].join(max(0.0, deadline - time.monotonic()))
        return self._results.get(name, late)


class Reader:
    """One reading of one host: every method fills its part of ``result`` and adds what stands in the way."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.directory = os.path.abspath(self.params["project_dir"])
        self.refusals: list[_stack.Refusal] = []
        self.entries: tuple[_ledger.Entry, ...] = ()
        self.env_text = ""
        self.images: Mapping[str, str] = {}
        self.engine: _docker_engine.Engine | None = None
        self.result: dict[str, Any] = {
            "target": "",
            "engine": {"version": "", "root_dir": "", "free_mb": None},
            "compose": {"version": "", "project": "", "files": [], "services": []},
            "services": {
                name: {
                    "configured_image": "",
                    "target_image": "",
                    "target_digest": "",
                    "target_local": False,
                    "running": None,
                    "others": [],
                    "definition": None,
                    "build_id": "",
                    "artifact": None,
                    "health": None,
                }
                for name in self.params["services"]
            },
            "containers": {},
            "git": {
                "head": "",
                "head_tags": [],
                "branch": "",
                "tags": [],
                "local_changes": [],
                "pins": [],
                "target_commit": "",
                "target_local": False,
                "target_on_remote": None,
                "target_migrations": None,
                "head_migrations": None,
                "smoke": False,
            },
            "ledger": {"releases": [], "current": "", "previous": "", "frozen": None},
            "lock": _lock.Lock().as_dict(),
            "run": None,
            "env": {"sha256": "", "differs": []},
            "clock": time.time(),
        }

    def refuse(self, refusal: _stack.Refusal | None) -> None:
        """Keep a reason; None is none."""
        if refusal:
            self.refusals.append(refusal)

    def read(self) -> dict[str, Any]:
        """The whole reading. What one source hides never keeps the others from being read."""
        self.read_state()
        with contextlib.ExitStack() as waiting:
            if self.result["lock"]["run_id"] == self.params["run_id"] != "":
                # What a killed try of this run began goes on by itself (compose_service): its end is what is read.
                with contextlib.suppress(_state_dir.StateDirError):
                    waiting.enter_context(_state_dir.shared(self.directory))
            return self.read_all()

    def read_all(self) -> dict[str, Any]:
        """Everything but the state directory."""
        background = Background()
        started = time.monotonic()
        for name, options in self.params["services"].items():
            if options["health_url"]:
                background.ask(name, lambda url=options["health_url"]: read_health(url))
        self.read_libraries()
        if self.read_directory():
            self.read_env()
            self.read_compose()
        self.read_engine()
        self.read_artifacts()
        self.resolve_target()
        self.read_target_images()
        self.read_target_artifacts()
        if self.params["git"] and os.path.isdir(self.directory):
            self.read_git()
        self.compare_env()
        late = {"status": 0, "body": None, "error": f"no complete answer within {HEALTH_TIMEOUT:g} s"}
        for name, options in self.params["services"].items():
            if options["health_url"]:
                answer = background.answer(name, started + HEALTH_TIMEOUT + 1, late)
                self.result["services"][name]["health"] = answer
        return {"changed": False, "refusals": [asdict(refusal) for refusal in self.refusals], **self.result}

    def read_libraries(self) -> None:
        if yaml is None:
            self.refuse(
                _stack.Refusal(
                    "library_missing",
                    f"{sys.executable} has no PyYAML, which writing and starting a Compose project needs",
                    "apt-get install python3-yaml",
                )
            )

    def read_state(self) -> None:
        """The ledger, the lock and the last run, from the state directory; one that is missing says nothing."""
        directory = self.params["state_dir"]
        try:
            text = _state_dir.read_text(os.path.join(directory, "ledger.jsonl"))
            lock = _lock.parse(_state_dir.read_text(os.path.join(directory, "lock.json")), time.time())
            self.result["run"] = self.earlier_try(directory)
        except (_state_dir.StateDirError, OSError) as error:
            # The first sentence tells what happened; what to do about it is said here.
            message = "the rollback's records cannot be read: " + str(error).partition(". ")[0]
            self.refuse(
                _stack.Refusal("state_dir_denied", message, f"run it with become (-b); see: ls -ld {directory}")
            )
            return
        self.entries = _ledger.parse(text or "").entries
        self.result["ledger"]["releases"] = _ledger.fold(self.entries)
        self.result["ledger"]["current"] = _ledger.current(self.entries)
        self.result["ledger"]["previous"] = _ledger.previous(self.entries)
        self.result["ledger"]["frozen"] = _ledger.frozen(self.entries)
        self.result["lock"] = lock.as_dict()
        # A lock without a run id cannot be read, and is nobody's own.
        if lock.held and (not lock.run_id or lock.run_id != self.params["run_id"]):
            self.refuse(_stack.lock_refusal(lock))

    def earlier_try(self, directory: str) -> dict[str, Any] | None:
        """What an earlier try of the run kept here: ``{plan}``; None where it kept nothing."""
        name = self.params["run_id"]
        if not _stack.is_release_name(name):
            return None
        plan = _stack.kept_plan(_state_dir.read_text(os.path.join(directory, "runs", name, "plan.json")))
        return {"plan": plan} if plan else None

    def read_directory(self) -> bool:
        """Whether the project directory can be read."""
        try:
            os.listdir(self.directory)
        except OSError as error:
            denied = isinstance(error, PermissionError)
            message = f"the project directory {self.directory} cannot be read: {error.strerror}"
            advice = "run it with become (-b)" if denied else f"ls -ld {self.directory}; set rollback_project_dir"
            self.refuse(_stack.Refusal("project_denied" if denied else "project_missing", message, advice))
            return False
        return True

    def read_env(self) -> None:
        path = os.path.join(self.directory, ".env")
        try:
            content = _state_dir.read_bytes(path)
        except _state_dir.StateDirError as error:
            self.refuse(
                _stack.Refusal("env_denied", f"the .env file cannot be read: {error}", "run it with become (-b)")
            )
            return
        if content is not None:
            self.env_text = content.decode("utf-8", errors="replace")
            self.result["env"]["sha256"] = hashlib.sha256(content).hexdigest()

    def read_compose(self) -> None:
        """The rendered project. Compose's own reading counts, since it is what will be started."""
        own = [os.environ.get(key) or self.env_value(key) for key in ("COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR")]
        files = _compose_file.project_files(
            self.directory, self.params["compose_files"], os.listdir(self.directory), own[0], own[1]
        )
        self.result["compose"]["files"] = files
        missing = [path for path in files if not os.path.isfile(path)]
        if missing or not files:
            wanted = ", ".join(missing) or f"any of {', '.join(_compose_file.FILE_NAMES)} in {self.directory}"
            advice = f"ls {self.directory}; set rollback_compose_files"
            self.refuse(_stack.Refusal("compose_missing", f"there is no compose file: {wanted}", advice))
        docker = self.module.get_bin_path("docker")
        if not docker:
            advice = (
                "apt-get install docker-ce-cli docker-compose-plugin (Docker's packages), or docker-cli docker-compose"
            )
            self.refuse(_stack.Refusal("docker_missing", "there is no docker command on the host", advice))
            return
        background = Background()
        background.ask("version", lambda: self.run([docker, "compose", "version", "--short"]))
        if files and not missing:
            named = ["--project-name", self.params["project_name"]] if self.params["project_name"] else []
            chosen = [part for path in self.params["compose_files"] for part in ("--file", path)]
            command = [docker, "compose", "--project-directory", self.directory, *named, *chosen, "config"]
            rc, rendered, err = self.run([*command, "--format", "json"])
            self.take_project(rc, rendered, err, command)
        rc, version, _err = background.answer("version", time.monotonic() + REGISTRY_TIMEOUT, (1, "", ""))
        self.result["compose"]["version"] = version.strip() if rc == 0 else ""
        if rc != 0 and not any(refusal.code.startswith("compose_") for refusal in self.refusals):
            self.refuse(_stack.compose_refusal("unknown command: docker compose", "", ""))

    def take_project(self, rc: int, rendered: str, err: str, command: list[str]) -> None:
        try:
            if rc != 0:
                raise ValueError(err)
            project = _stack.read_project(rendered)
        except (ValueError, AttributeError):
            self.refuse(_stack.compose_refusal(err, self.env_text, " ".join(["docker", *command[1:], "--quiet"])))
            return
        self.images = project.images
        self.result["compose"].update(project=project.name, services=sorted(project.images))
        for name, service in self.result["services"].items():
            service["configured_image"] = project.images.get(name, "")
            service["definition"] = project.definitions.get(name)
            if name not in project.images:
                self.refuse(_stack.service_refusal(name, sorted(project.images)))

    def read_engine(self) -> None:
        """The engine, its containers and its disk."""
        try:
            self.engine = _docker_engine.Engine(_docker_engine.socket_path(os.environ.get("DOCKER_HOST", "")))
            self.result["engine"].update(version=self.engine.version(), root_dir=self.engine.root_dir())
            self.take_containers(self.engine)
        except _docker_engine.EngineError as error:
            self.engine = None
            self.refuse(_stack.engine_refusal(error.kind, str(error), user_name()))
        root = self.result["engine"]["root_dir"]
        if root:
            try:
                disk = os.statvfs(root)
                self.result["engine"]["free_mb"] = disk.f_bavail * disk.f_frsize // 2**20
            except OSError as error:
                self.module.warn(f"The free space of {root} cannot be read: {error.strerror}")

    def take_containers(self, engine: _docker_engine.Engine) -> None:
        name = self.params["project_name"] or self.result["compose"]["project"]
        members = _stack.by_service(
            engine.containers(f"{_stack.PROJECT_LABEL}={name}" if name else _stack.PROJECT_LABEL), name, self.directory
        )
        for service, containers in members.items():
            found = _stack.addresses(containers)
            if found:
                self.result["containers"][service] = found
        for name, service in self.result["services"].items():
            if name in members:
                container = members[name][0]
                service["running"] = _stack.describe(container, engine.image(str(container.get("Image") or "")))
                service["others"] = [
                    _stack.describe(other, engine.image(str(other.get("Image") or "")))
                    for other in members[name][1:]
                    if _stack.runs(other)
                ]
                path = self.params["services"][name]["build_id_path"]
                if path:
                    path = os.path.join((container.get("Config") or {}).get("WorkingDir") or "/", path)
                    service["build_id"] = (engine.read_file(container["Id"], path) or "").strip()

    def artifacts(self) -> list[tuple[str, str]]:
        """The services whose releases are kept builds, each with the directory of these."""
        services = self.params["services"].items()
        return [(name, options["artifacts_dir"]) for name, options in services if options["artifacts_dir"]]

    def read_artifacts(self) -> None:
        for name, directory in self.artifacts():
            service = self.result["services"][name]
            current = os.path.join(directory, "current")
            linked = os.path.basename(os.path.realpath(current)) if os.path.islink(current) else ""
            service["artifact"] = {"current": linked, "target_build_id": "", "target_served": False}
            service["build_id"] = self.kept_build(directory, "current") if linked else ""

    def kept_build(self, directory: str, release: str) -> str:
        """The build id of a kept build, '' when there is none."""
        try:
            return (_state_dir.read_text(os.path.join(directory, release, *_stack.BUILD_ID)) or "").strip()
        except _state_dir.StateDirError as error:
            self.module.warn(str(error))
            return ""

    def read_target_artifacts(self) -> None:
        """Whether the target's builds are kept, and served already."""
        target = self.result["target"]
        for name, directory in self.artifacts() if target else ():
            artifact = self.result["services"][name]["artifact"]
            artifact["target_build_id"] = build = self.kept_build(directory, target)
            if not build:
                self.refuse(_stack.artifact_refusal(target, directory))
            elif self.params["services"][name]["health_url"]:
                # Next.js has this file under the id of each build, and serves that of its own only.
                asset = f"/_next/static/{urllib.parse.quote(build)}/_buildManifest.js"
                answer = read_health(urllib.parse.urljoin(self.params["services"][name]["health_url"], asset))
                artifact["target_served"] = answer["status"] == 200

    def resolve_target(self) -> None:
        """Name the target, once; ``previous`` looks at what really runs, since a deploy may have gone unrecorded."""
        ledger = self.result["ledger"]
        running = _stack.running_release(self.result["services"], ledger["releases"])
        ledger["previous"] = _ledger.previous(self.entries, running)
        asked = self.params["release"]
        pinned = _lock.pinned(self.result["lock"], self.params["run_id"])
        if asked == "previous" and pinned:
            self.result["target"] = pinned
        elif asked == "previous":
            self.result["target"] = ledger["previous"]
            if not ledger["previous"]:
                self.refuse(_stack.no_previous_refusal(running or ledger["current"], ledger["releases"]))
        elif asked and not _stack.is_release_name(asked):
            self.refuse(_stack.malformed_refusal(asked))
        else:
            self.result["target"] = asked

    def recorded(self) -> Mapping[str, Any]:
        """What the ledger says of the target, {} when nothing."""
        releases = self.result["ledger"]["releases"]
        return next((entry for entry in releases if entry["release"] == self.result["target"]), {})

    def read_target_images(self) -> None:
        """Whether the images of the target can be had, asking the registry for all of them at once."""
        if not self.result["target"]:
            return
        wanted = {}
        for name, service in self.result["services"].items():
            if service["artifact"] is not None:
                continue
            if service["configured_image"]:
                wanted[name] = _image_reference.parse(service["configured_image"]).with_tag(self.result["target"])
                service["target_image"] = str(wanted[name])
            elif name in self.images and self.params["image_source"] == "registry":
                self.refuse(_stack.image_unset_refusal(name))
        if self.engine is None:
            return
        background = Background()
        if self.params["image_source"] == "registry":
            for name, reference in wanted.items():
                background.ask(name, lambda reference=reference: self.ask_registry(reference))
        deadline = time.monotonic() + REGISTRY_TIMEOUT + 1
        late = _stack.RegistryAnswer(problem="unreachable", message=f"no answer within {REGISTRY_TIMEOUT:g} s")
        try:
            for name, reference in wanted.items():
                answer = background.answer(name, deadline, late) if self.params["image_source"] == "registry" else None
                self.take_target_image(self.engine, name, reference, answer)
        except _docker_engine.EngineError as error:
            self.refuse(_stack.engine_refusal(error.kind, str(error), user_name()))
        self.check_disk(wanted)

    def take_target_image(
        self,
        engine: _docker_engine.Engine,
        name: str,
        reference: _image_reference.ImageReference,
        answer: _stack.RegistryAnswer | None,
    ) -> None:
        recorded = (self.recorded().get("services") or {}).get(name) or {}
        digest = recorded.get("digest") or (answer.digest if answer else "")
        by_digest = engine.image(str(reference.with_digest(digest))) if digest else None
        judged = _stack.judge_target(str(reference), recorded, engine.image(str(reference)), by_digest, answer)
        self.refusals += judged.refusals
        self.result["services"][name].update(target_digest=judged.digest, target_local=judged.local)

    def check_disk(self, wanted: Mapping[str, Any]) -> None:
        free = self.result["engine"]["free_mb"]
        if free is not None and any(not self.result["services"][name]["target_local"] for name in wanted):
            self.refuse(_stack.disk_refusal(self.result["engine"]["root_dir"], free, self.params["min_free_mb"]))

    def ask_registry(self, reference: _image_reference.ImageReference) -> _stack.RegistryAnswer:
        """What the registry has under a tag, asked through the engine as a pull would; runs in a thread."""
        engine = _docker_engine.Engine(self.engine.path if self.engine else "", REGISTRY_TIMEOUT)
        try:
            auth = _registry_auth.registry_auth(self.docker_config(), reference.registry, self.ask_helper)
            return _stack.RegistryAnswer(digest=engine.distribution_digest(str(reference), auth))
        except _docker_engine.EngineError as error:
            return _stack.registry_answer(error.status, str(error))
        finally:
            engine.close()

    def docker_config(self) -> str:
        directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        try:
            return _state_dir.read_text(os.path.join(directory, "config.json")) or ""
        except _state_dir.StateDirError:
            # What cannot be read is not used by docker either.
            return ""

    def ask_helper(self, suffix: str, server: str) -> str:
        """The output of a credential helper, '' when it has nothing."""
        helper = self.module.get_bin_path(f"docker-credential-{os.path.basename(suffix)}")
        rc, out, _err = self.run([helper, "get"], data=server) if helper else (1, "", "")
        return out if rc == 0 else ""

    def read_git(self) -> None:
        program = self.module.get_bin_path("git")
        if not program:
            self.refuse(_stack.Refusal("git_missing", "there is no git command on the host", "apt-get install git"))
            return
        # Optional locks would let a mere reading rewrite the index.
        git = _git.Git(lambda args: self.run([program, "--no-optional-locks", "-C", self.directory, *args]))
        try:
            checkout = self.take_checkout(git)
            if self.result["target"]:
                self.take_tag(git, program, checkout)
        except _git.GitError as error:
            self.refuse(_stack.git_refusal(error.kind, str(error), self.directory))

    def take_checkout(self, git: _git.Git) -> _git.Checkout:
        found = self.result["git"]
        checkout = git.checkout()
        hashes = {path: _state_dir.sha256(os.path.join(checkout.top, path)) for path in checkout.changed}
        found["local_changes"] = _git.foreign(hashes, _ledger.pinned(self.entries))
        found["pins"] = sorted(hashes.keys() - set(found["local_changes"]))
        found.update(
            head=checkout.head,
            head_tags=list(checkout.head_tags),
            branch=checkout.branch,
            tags=list(checkout.tags[:20]),
        )
        if found["local_changes"]:
            self.refuse(_stack.changes_refusal(found["local_changes"], self.directory))
        if checkout.head:
            contents = git.contents(checkout.head, self.params["migrations_path"])
            found["smoke"] = self.params["smoke_script"] in contents.scripts
            if contents.migrations is not None:
                found["head_migrations"] = list(contents.migrations)
        return checkout

    def take_tag(self, git: _git.Git, program: str, checkout: _git.Checkout) -> None:
        found, target = self.result["git"], self.result["target"]
        recorded = self.recorded().get("migrations")
        found["target_migrations"] = None if recorded is None else list(recorded)
        commit = git.commit_of(target)
        if commit:
            contents = git.contents(commit, self.params["migrations_path"])
            blocking = git.in_the_way(checkout, commit) if commit != checkout.head else ()
            if blocking:
                self.refuse(_stack.untracked_refusal(target, blocking, self.directory))
            found.update(target_commit=commit, target_local=True, smoke=self.params["smoke_script"] in contents.scripts)
            if contents.migrations is not None:
                found["target_migrations"] = list(contents.migrations)
            elif self.params["migrations_path"] and recorded is None:
                self.refuse(_stack.migrations_refusal(target, self.params["migrations_path"], self.directory))
            return
        commit = self.remote(git, program).remote_commit(target)
        found.update(target_commit=commit, target_on_remote=bool(commit))
        if not commit:
            self.refuse(_stack.tag_refusal(target, found["tags"], self.directory))

    def remote(self, git: _git.Git, program: str) -> _git.Git:
        """Git for questions to the remote: it never prompts, and does not wait for ever."""
        # Set in the environment, the command would hide the one of the repository's own configuration.
        ssh = os.environ.get("GIT_SSH_COMMAND") or git.setting("core.sshCommand") or "ssh"
        environment = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": f"{ssh} -o BatchMode=yes -o ConnectTimeout={REMOTE_TIMEOUT // 2}",
        }
        timeout = self.module.get_bin_path("timeout")
        limited = [timeout, str(REMOTE_TIMEOUT)] if timeout else []
        return _git.Git(
            lambda args: self.run([*limited, program, "-C", self.directory, *args], environment=environment)
        )

    def compare_env(self) -> None:
        target = self.result["target"]
        if not target or not self.result["env"]["sha256"]:
            return
        try:
            kept = _state_dir.read_text(os.path.join(self.params["state_dir"], "releases", target, "env"))
        except _state_dir.StateDirError:
            # That the state directory cannot be read is a refusal already.
            return
        if kept is not None:
            self.result["env"]["differs"] = _env_file.differing_keys(self.env_when_pinned(), kept)

    def env_when_pinned(self) -> str:
        """The .env as pinning the target's images will leave it: the release before named its own there."""
        path = os.path.join(self.directory, ".env")
        texts = {path: self.env_text}
        target, services = self.result["target"], self.result["services"]
        wanted = {name: target for name, service in services.items() if service["target_image"]}
        if yaml is None:
            return self.env_text
        try:
            texts.update((file, _state_dir.read_text(file) or "") for file in self.result["compose"]["files"])
            files = _compose_file.Files(tuple(self.result["compose"]["files"]), path, texts)
            return _compose_file.set_tags(files, wanted, yaml)[0].get(path, self.env_text)
        except (_compose_file.ComposeFileError, _state_dir.StateDirError):
            # What keeps it from being pinned is told where it is pinned.
            return self.env_text

    def env_value(self, key: str) -> str:
        entry = _env_file.find(self.env_text, key)
        return entry.value if entry else ""

    def run(
        self, command: list[str], data: str | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run a command in the project directory; one that cannot be started has ended with 127."""
        try:
            return self.module.run_command(
                command,
                data=data,
                cwd=self.directory if os.path.isdir(self.directory) else None,
                # Messages are read, so they have to be in the language of the programs' authors.
                environ_update={"LC_ALL": "C", "LANGUAGE": "C", **(environment or {})},
                expand_user_and_vars=False,
                handle_exceptions=False,
            )
        except OSError as error:
            return 127, "", f"{command[0]}: {error.strerror}"


def check_services(module: AnsibleModule) -> None:
    """Fill in what services leave out, and fail where one is not what it has to be."""
    for name, options in module.params["services"].items():
        options = {} if options is None else options
        if not isinstance(options, dict) or not options.keys() <= set(SERVICE_KEYS):
            module.fail_json(
                msg=f"services.{name} has to be a dictionary with no other keys than {', '.join(SERVICE_KEYS)}."
            )
        module.params["services"][name] = {key: str(options.get(key) or "") for key in SERVICE_KEYS}
        url = module.params["services"][name]["health_url"]
        if url and not url.startswith(("http://", "https://")):
            module.fail_json(msg=f"services.{name}.health_url is {url!r}. It has to be an http:// or https:// URL.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path", "required": True},
            "compose_files": {"type": "list", "elements": "path", "default": []},
            "project_name": {"type": "str", "default": ""},
            "services": {"type": "dict", "required": True},
            "release": {"type": "str", "default": ""},
            "image_source": {"type": "str", "choices": ["registry", "build"], "default": "registry"},
            "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
            "min_free_mb": {"type": "int", "default": 2048},
            "migrations_path": {"type": "str", "default": "apps/api/prisma/migrations"},
            "run_id": {"type": "str", "default": ""},
            "smoke_script": {"type": "str", "default": "test:smoke"},
            "git": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    check_services(module)
    module.exit_json(**Reader(module).read())


if __name__ == "__main__":
    main()
