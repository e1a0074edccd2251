#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_snapshot
short_description: Keep what a rollback is about to change on a host, and put it back
version_added: 0.1.0
description:
  - Before a run changes anything on a host, it keeps the env file, the compose files and the commit that is checked
    out, and with them the evidence that a rollback removes, which are the logs of the containers and the answers of the
    health URLs.
  - The same run can put the checkout and the files back. No container is touched; start the services afterwards.
  - Everything lies in C(runs/<run_id>/) in the state directory, in files with mode V(0600). No content of a file is
    ever returned or shown.
author: ConnectIn operations (@connectin)
extends_documentation_fragment: connectin.rollback.project
options:
  state:
    description:
      - V(present) keeps what is there now. C(before/) is kept once for each run. A run that is taken up again finds
        what was there before its first try, and leaves that as it is. Its logs and health answers lie beside the first
        ones, as C(evidence/containers-2.log) and so on.
      - V(restored) puts the checkout and the files back to what O(run_id) kept. It fails, with nothing changed, when
        that run kept nothing here, or when a tracked file was changed by somebody else.
    type: str
    choices: [present, restored]
    default: present
  project_dir:
    description: The directory of the Compose project. Its git checkout is kept too, if it is one.
    type: path
    required: true
  compose_files:
    description:
      - The compose files, relative to O(project_dir). Without any, C(COMPOSE_FILE) in O(env_file) tells, and without
        that the names that Compose itself looks for.
    type: list
    elements: path
    default: []
  env_file:
    description: The file with the variables of the compose files, relative to O(project_dir).
    type: path
    default: .env
  services:
    description: The Compose services whose containers and logs are kept.
    type: list
    elements: str
    default: []
  state_dir:
    description: The directory of the ledger and the runs. It is made with mode V(0700) where it is missing.
    type: path
    default: /var/lib/connectin-rollback
  run_id:
    description: The rollback run.
    type: str
    required: true
  plan:
    description:
      - The plan of the run as JSON, which is kept as C(plan.json), in place of that of an earlier try. A run that is
        taken up again knows by it what there was before the first change.
    type: str
    default: ""
  log_lines:
    description: How many of the last lines of each container's log are kept.
    type: int
    default: 5000
  health_urls:
    description:
      - A URL for each service, which the host itself can read, whose answer is kept. The certificate of an C(https) one
        is not checked, since it is made out to the public name.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Can run in check mode and tells what it would do, and fails where it would.
    support: full
  diff_mode:
    description: Shows commits and names of files only, since env files hold secrets.
    support: full
seealso:
  - module: connectin.rollback.stack_info
  - module: connectin.rollback.compose_image
  - module: connectin.rollback.release_ledger
"""

EXAMPLES = r"""
- name: Keep what the switch is going to change, and the logs that it removes
  connectin.rollback.stack_snapshot:
    project_dir: /srv/connectin
    services: [api, web]
    health_urls:
      api: http://127.0.0.1:5007/health
    run_id: 20260504T030201Z-7c1e
  become: true

- name: Put checkout, env file and compose files back to what they were before this run
  connectin.rollback.stack_snapshot:
    state: restored
    project_dir: /srv/connectin
    run_id: 20260504T030201Z-7c1e
  become: true
"""

RETURN = r"""
path:
  description: The folder of the run.
  returned: always
  type: str
  sample: /var/lib/connectin-rollback/runs/20260504T030201Z-7c1e
head:
  description: The commit that was checked out before the run, empty without a git checkout.
  returned: success
  type: str
  sample: 6f1ed002ab5595859014ebf0951522d9d4b0c9a1
branch:
  description: The branch that was checked out before the run, empty when none was.
  returned: success
  type: str
  sample: main
services:
  description: The container of each service before the run; a service without one is left out.
  returned: success
  type: dict
  sample:
    api:
      image: registry.example.com/connectin/api:v1.4.3
      image_id: sha256:3f1c9b52a0f4b1c83b1c0c6d0dc1b6d86c0b7c1fd3a1ec8b1b2f0c34d7a65e90
      state: running
files:
  description:
    - With O(state=present) the files that were kept or would be in check mode, evidence included.
    - With O(state=restored) the kept files that differed and were put back, or would be.
  returned: success
  type: list
  elements: str
  sample: [/srv/connectin/.env, /srv/connectin/docker-compose.yml]
problems:
  description: What could not be kept, for people. What a way back needs is never among it, since that fails the task.
  returned: success
  type: list
  elements: str
  sample: ["the log of connectin-api-1 is not kept: configured logging driver does not support reading"]
diff:
  description: Commits and names of files, before and after.
  returned: success
  type: dict
  contains:
    before:
      description: The commit that is checked out.
      type: str
      sample: "6f1ed002ab5595859014ebf0951522d9d4b0c9a1\n"
    after:
      description: The commit that is checked out then, and the files that were written.
      type: str
      sample: "c0ffee02ab5595859014ebf0951522d9d4b0c9a1\n/srv/connectin/.env\n"
    before_header:
      description: The project.
      type: str
      sample: /srv/connectin
    after_header:
      description: The project.
      type: str
      sample: /srv/connectin
"""

import hashlib
import json
import os
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _compose_file,
    _docker_engine,
    _env_file,
    _git,
    _health,
    _http_poll,
    _ledger,
    _snapshot,
    _stack,
    _state_dir,
)

HEALTH_TIMEOUT = 3.0
BODY_LIMIT = 64 * 1024
MANIFEST = "before.json"
# Inspected containers by service.
Members = Optional[Mapping[str, "list[Mapping[str, Any]]"]]


def ask(url: str) -> dict[str, Any]:
    """Ask a health URL once: ``{status, body, error}``. Never raises."""
    try:
        parts = urllib.parse.urlsplit(url)
        context = _http_poll.tls_context(False, None) if parts.scheme == "https" else None
        client = _http_poll.Client(_health.Endpoint(name=url, url=url), HEALTH_TIMEOUT, context, time.monotonic)
    except (ValueError, _health.HealthError) as error:
        return {"status": 0, "body": "", "error": f"{url} cannot be asked: {error}"}
    answer = client.get(urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")))
    client.close()
    body = answer.text.encode("utf-8")[:BODY_LIMIT].decode("utf-8", errors="ignore")
    return {"status": answer.status, "body": body, "error": answer.error}


class Snapshot:
    """One run on one host: what it keeps, and puts back. Methods raise SnapshotError, GitError and StateDirError."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.directory = os.path.abspath(self.params["project_dir"])
        self.run_dir = os.path.join(self.params["state_dir"], "runs", _snapshot.check_run(self.params["run_id"]))
        self.before_dir = os.path.join(self.run_dir, "before")
        self.problems: list[str] = []
        self.files: list[str] = []

    def keep(self) -> dict[str, Any]:
        """Keep what is there, unless this run did already, and the evidence in any case."""
        manifest = self.kept()
        fresh = manifest is None
        members = self.containers()
        if manifest is None:
            manifest = self.keep_before(members)
        if self.params["plan"]:
            self.keep_plan()
        self.keep_evidence(members)
        return self.results(manifest, changed=fresh or bool(self.files), moved_to=manifest.head)

    def restore(self) -> dict[str, Any]:
        """Put the checkout and the files back."""
        manifest = self.kept()
        if manifest is None:
            raise _snapshot.SnapshotError(
                f"Nothing was kept of this host before run {self.params['run_id']}: there is no "
                f"{os.path.join(self.before_dir, MANIFEST)}. Nothing was changed. Runs that kept something: "
                f"ls -d {self.params['state_dir']}/runs/*/before"
            )
        copies = self.copies(manifest)
        differing = [kept for kept in manifest.files if not self.is_back(kept)]
        head, moved = self.restore_checkout(manifest) if manifest.head else ("", False)
        if not self.module.check_mode:
            for kept in manifest.files:
                # Asked again: the checkout may have brought back some, and taken others away.
                if not self.is_back(kept):
                    self.put_back(kept, copies.get(kept))
        self.files = [kept.path for kept in differing]
        return self.results(manifest, changed=moved or bool(differing), head=head, moved_to=manifest.head)

    def results(
        self, manifest: _snapshot.Manifest, changed: bool, moved_to: str, head: str | None = None
    ) -> dict[str, Any]:
        """The module's results; ``head`` is the commit that was found, where it may be another than that kept."""
        found = manifest.head if head is None else head
        lines = "".join(f"{path}\n" for path in self.files)
        return {
            "changed": changed,
            "path": self.run_dir,
            "head": manifest.head,
            "branch": manifest.branch,
            "services": {name: dict(facts) for name, facts in manifest.containers.items()},
            "files": self.files,
            "problems": self.problems,
            "diff": {
                "before": f"{found}\n" if found else "",
                "after": (f"{moved_to}\n" if moved_to else "") + lines,
                "before_header": self.directory,
                "after_header": self.directory,
            },
        }

    def kept(self) -> _snapshot.Manifest | None:
        """The manifest of this run, None when it has none yet."""
        path = os.path.join(self.before_dir, MANIFEST)
        text = _state_dir.read_text(path)
        return None if text is None else _snapshot.parse(text, path)

    def keep_before(self, members: Members) -> _snapshot.Manifest:
        """Keep the files byte for byte, then the manifest: a run that is killed in between has kept nothing yet."""
        head, branch = self.checkout()
        self.make(self.before_dir)
        files = []
        for position, path in enumerate(self.paths(), 1):
            content = _state_dir.read_bytes(path)
            if content is None:
                files.append(_snapshot.KeptFile(path))
                continue
            with _state_dir.told("read", path):
                found = os.stat(path)
            copy = _snapshot.copy_name(position, path)
            self.write(os.path.join(self.before_dir, copy), content)
            digest = hashlib.sha256(content).hexdigest()
            mode = stat.S_IMODE(found.st_mode)
            files.append(_snapshot.KeptFile(path, copy, digest, mode, found.st_uid, found.st_gid))
            self.files.append(path)
        containers = {
            name: _snapshot.container_facts(_stack.describe(members[name][0], None))
            for name in self.params["services"]
            if members and members.get(name)
        }
        manifest = _snapshot.Manifest(head, branch, tuple(files), containers)
        self.write(os.path.join(self.before_dir, MANIFEST), manifest.as_text().encode("utf-8"))
        return manifest

    def keep_plan(self) -> None:
        """Keep the plan once there is what it goes back to, and before anything is changed."""
        path = os.path.join(self.run_dir, "plan.json")
        content = self.params["plan"].strip().encode("utf-8") + b"\n"
        if _state_dir.read_bytes(path) != content:
            self.make(self.run_dir)
            self.write(path, content)
            self.files.append(path)

    def keep_evidence(self, members: Members) -> None:
        """Keep logs and health answers; what cannot be kept is a problem, since a rollback does not wait for it."""
        directory = os.path.join(self.run_dir, "evidence")
        found = {"containers.log": self.logs(members), "health.json": self.health()}
        for name, content in found.items():
            if content is None:
                continue
            try:
                self.make(directory)
                taken = os.listdir(directory) if os.path.isdir(directory) else ()
                path = os.path.join(directory, _snapshot.beside(taken, *os.path.splitext(name)))
                self.write(path, content.encode("utf-8"))
                self.files.append(path)
            except (_state_dir.StateDirError, OSError) as error:
                self.problems.append(f"{name} is not kept: {error}")

    def logs(self, members: Members) -> str | None:
        """The logs of all containers of the services, None when there is none to keep."""
        texts = []
        for service in self.params["services"] if members is not None else ():
            if not members.get(service):
                self.problems.append(f"{service} has no container, so there is no log of it")
            for container in members.get(service, ()):
                name = str(container.get("Name") or "").lstrip("/")
                engine = self.engine()
                try:
                    tty = bool((container.get("Config") or {}).get("Tty"))
                    text = engine.logs(str(container["Id"]), self.params["log_lines"], tty)
                    texts.append(_snapshot.log_lines(name, text))
                except _docker_engine.EngineError as error:
                    self.problems.append(f"the log of {name} is not kept: {error}")
                finally:
                    engine.close()
        return "".join(texts) if texts else None

    def health(self) -> str | None:
        """The answers of the health URLs, asked at the same time; None without any URL."""
        urls = {str(name): str(url) for name, url in self.params["health_urls"].items() if url}
        if not urls:
            return None
        with ThreadPoolExecutor(max_workers=len(urls)) as pool:
            answers = dict(zip(urls, pool.map(ask, urls.values())))
        return json.dumps(answers, indent=2, sort_keys=True) + "\n"

    def engine(self) -> _docker_engine.Engine:
        return _docker_engine.Engine(_docker_engine.socket_path(os.environ.get("DOCKER_HOST", "")))

    def containers(self) -> Members:
        """The inspected containers of the project by service, None when the engine does not tell."""
        if not self.params["services"]:
            return {}
        name = self.params["project_name"] or self.project()
        try:
            engine = self.engine()
            try:
                label = f"{_stack.PROJECT_LABEL}={name}" if name else _stack.PROJECT_LABEL
                return _stack.by_service(engine.containers(label), name, self.directory)
            finally:
                engine.close()
        except _docker_engine.EngineError as error:
            self.problems.append(f"the containers and their logs are not kept: {error}")
            return None

    def project(self) -> str:
        """The name of the project as Compose reads it, '' when it cannot."""
        docker = self.module.get_bin_path("docker")
        if not docker:
            return ""
        chosen = [part for path in self.params["compose_files"] for part in ("--file", path)]
        env = os.path.join(self.directory, self.params["env_file"])
        given = ["--env-file", env] if self.params["env_file"] != ".env" and os.path.exists(env) else []
        command = [docker, "compose", "--project-directory", self.directory, *given, *chosen]
        rc, rendered, _err = self.run([*command, "config", "--format", "json"])
        try:
            return _stack.read_project(rendered).name if rc == 0 else ""
        except (ValueError, AttributeError):
            return ""

    def paths(self) -> list[str]:
        """The env file and the compose files, there or not."""
        env_path = os.path.normpath(os.path.join(self.directory, self.params["env_file"]))
        with _state_dir.told("read", self.directory):
            names = os.listdir(self.directory)
        env_text = _state_dir.read_text(env_path) or ""
        asked = {key: _env_file.find(env_text, key) for key in ("COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR")}
        compose = _compose_file.project_files(
            self.directory,
            self.params["compose_files"],
            names,
            *(os.environ.get(key) or (entry.value if entry else "") for key, entry in asked.items()),
        )
        if not compose:
            self.problems.append(f"there is no compose file in {self.directory}")
        return list(dict.fromkeys([env_path, *compose]))

    def checkout(self) -> tuple[str, str]:
        """The commit and the branch, '' for both where the project is no git checkout."""
        git = self.git()
        try:
            found = git.checkout() if git else None
        except _git.GitError as error:
            if error.kind != "no_repository":
                raise
            found = None
        if found is None or not found.head:
            self.problems.append(f"{self.directory} is no git checkout with a commit, so only its files are kept")
            return "", ""
        return found.head, found.branch

    def restore_checkout(self, manifest: _snapshot.Manifest) -> tuple[str, bool]:
        """Take the checkout back. Returns the commit that was found, and whether the checkout moves."""
        git = self.git()
        if git is None:
            raise _git.GitError("other", "there is no git command on the host")
        found = git.checkout()
        hashes = {path: _state_dir.sha256(os.path.join(found.top, path)) for path in found.changed}
        others = _git.foreign(hashes, self.pins() | manifest.hashes())
        if others:
            raise _snapshot.SnapshotError(
                f"{', '.join(others)} in {self.directory} was changed by somebody else, and going back would lose "
                f"that. Nothing was changed. See it with: git -C {self.directory} diff; keep it aside with: "
                f"git -C {self.directory} stash; then run the same command again."
            )
        branch_commit = git.branch_commit(manifest.branch) if manifest.branch else ""
        move = _snapshot.move(manifest, found.head, found.branch, branch_commit, found.changed)
        if not move.to:
            return found.head, False
        if not git.has_commit(manifest.head):
            raise _snapshot.SnapshotError(
                f"{self.directory} does not have the commit {manifest.head} any more, which was checked out before. "
                f"Nothing was changed. Get it with: git -C {self.directory} fetch origin {manifest.head}"
            )
        blocking = git.in_the_way(found, manifest.head) if found.head != manifest.head else ()
        if blocking:
            raise _snapshot.SnapshotError(
                f"{', '.join(blocking[:5])} in {self.directory} is tracked by no commit now, and would be overwritten. "
                "Nothing was changed. Move it away, then run the same command again."
            )
        if not self.module.check_mode:
            git.go_to(found, move.to, manifest.head, discard=move.discard)
        return found.head, True

    def pins(self) -> set[str]:
        text = _state_dir.read_text(os.path.join(self.params["state_dir"], "ledger.jsonl")) or ""
        return _ledger.pinned(_ledger.parse(text).entries)

    def copies(self, manifest: _snapshot.Manifest) -> dict[_snapshot.KeptFile, bytes]:
        """The kept content of every file, read and checked before anything is changed."""
        found = {}
        for kept in manifest.files:
            if not kept.copy:
                continue
            path = os.path.join(self.before_dir, kept.copy)
            content = _state_dir.read_bytes(path)
            if content is None or hashlib.sha256(content).hexdigest() != kept.sha256:
                raise _snapshot.SnapshotError(
                    f"{path} is {'gone' if content is None else 'not what was kept'}, so {kept.path} cannot be put "
                    "back. Nothing was changed."
                )
            found[kept] = content
        return found

    def is_back(self, kept: _snapshot.KeptFile) -> bool:
        """Whether a file is as it was kept: content, mode and owner."""
        if not kept.copy:
            return not os.path.lexists(kept.path)
        try:
            found = os.stat(kept.path)
        except OSError:
            return False
        same = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (kept.mode, kept.uid, kept.gid)
        return same and _state_dir.sha256(kept.path) == kept.sha256

    def put_back(self, kept: _snapshot.KeptFile, content: bytes | None) -> None:
        """Put one file back whole, with its mode and owner; one that was not there (None) goes."""
        if content is None:
            _state_dir.remove(kept.path)
            return
        # Behind a symbolic link its target is written, as it was when it was kept.
        target = os.path.realpath(kept.path)
        with _state_dir.told("write", target):
            descriptor, name = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
            self.module.add_cleanup_file(name)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                os.fchown(stream.fileno(), kept.uid, kept.gid)
                # After the owner, which takes away special bits.
                os.fchmod(stream.fileno(), kept.mode)
            if self.module.selinux_enabled():
                there = os.path.exists(target)
                context = self.module.selinux_context(target) if there else self.module.selinux_default_context(target)
                self.module.set_context_if_different(name, context, False)
            os.replace(name, target)
            _state_dir.sync_directory(os.path.dirname(target))

    def make(self, path: str) -> None:
        """Make a folder of the run, private at every level."""
        if not self.module.check_mode:
            for directory in (self.params["state_dir"], os.path.dirname(self.run_dir), self.run_dir, path):
                _state_dir.make_directory(directory)

    def write(self, path: str, content: bytes) -> None:
        if not self.module.check_mode:
            _state_dir.write_atomic(path, content)

    def git(self) -> _git.Git | None:
        program = self.module.get_bin_path("git")
        if not program:
            return None
        # Optional locks would let a mere reading rewrite the index.
        return _git.Git(lambda args: self.run([program, "--no-optional-locks", "-C", self.directory, *args]))

    def run(self, command: list[str]) -> tuple[int, str, str]:
        """Run a command; one that cannot be started has ended with 127."""
        try:
            return self.module.run_command(
                command,
                cwd=self.directory if os.path.isdir(self.directory) else None,
                # Messages are read, so they have to be in the language of the programs' authors.
                environ_update={"LC_ALL": "C", "LANGUAGE": "C"},
                expand_user_and_vars=False,
                handle_exceptions=False,
            )
        except OSError as error:
            return 127, "", f"{command[0]}: {error.strerror}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
            "project_dir": {"type": "path", "required": True},
            "compose_files": {"type": "list", "elements": "path", "default": []},
            "project_name": {"type": "str", "default": ""},
            "env_file": {"type": "path", "default": ".env"},
            "services": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
            "run_id": {"type": "str", "required": True},
            # No secret, but long: it does not belong into the system's log.
            "plan": {"type": "str", "default": "", "no_log": True},
            "log_lines": {"type": "int", "default": 5000},
            "health_urls": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    path = ""
    try:
        snapshot = Snapshot(module)
        path = snapshot.run_dir
        result = snapshot.keep() if module.params["state"] == "present" else snapshot.restore()
    except (_snapshot.SnapshotError, _state_dir.StateDirError) as error:
        module.fail_json(msg=str(error), path=path)
    except _git.GitError as error:
        module.fail_json(msg=_stack.git_failure(error, os.path.abspath(module.params["project_dir"])), path=path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
