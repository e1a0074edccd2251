#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_image
short_description: Set the image tag of Compose services where it is written
version_added: 0.1.0
description:
  - Sets the tag of a service's image in the file where it is written, which is the compose file itself or the variable
    in the env file that the compose file names. Only the characters of the tag are replaced; comments, quotes, line
    ends and everything else stay as they are.
  - All services are set, or none. Nothing is pulled and no container is touched.
  - A digest behind the tag is dropped, since it names the content of another tag.
author: ConnectIn operations (@connectin)
options:
  project_dir:
    description: The directory of the Compose project, on the host.
    type: path
    required: true
  compose_files:
    description:
      - The compose files, relative to O(project_dir), in the order in which Compose merges them. A service that is in
        several of them is set in the last one that sets its image.
      - Without any, C(COMPOSE_FILE) in O(env_file) tells, and without that the names that Compose itself looks for.
    type: list
    elements: path
    default: []
  env_file:
    description: The file with the variables of the compose files, relative to O(project_dir).
    type: path
    default: .env
  tags:
    description: The tag of each service, by the service's name.
    type: dict
    required: true
  ledger:
    description:
      - Where a change to a compose file is entered before it is written, so that a run that is killed right after
        leaves no change that looks like somebody's own. The ledger gets one line that lists each compose file that
        changes with the SHA-256 that it is about to have.
      - The file named by O(env_file) is not entered, since it is in no checkout. Nothing is entered without this
        option, in check mode, or when no compose file changes.
    type: dict
    suboptions:
      state_dir:
        description: The directory of the ledger, on the host. It is made with mode V(0700) where it is missing.
        type: path
        default: /var/lib/connectin-rollback
      release:
        description: The release that is pinned, by its git tag.
        type: str
        required: true
      who:
        description:
          - Who pins it. By default the user who is logged in on the host, behind C(sudo) the one who called it.
        type: str
      run_id:
        description: The rollback run that this belongs to, if any.
        type: str
        default: ""
attributes:
  check_mode:
    description: Can run in check mode and tells what it would write.
    support: full
  diff_mode:
    description: Shows the compose files before and after; of the env file only the lines that change, never others.
    support: full
requirements:
  - PyYAML on the host (Debian package python3-yaml)
seealso:
  - module: connectin.rollback.stack_info
  - module: connectin.rollback.release_ledger
  - module: community.docker.docker_compose_v2
"""

EXAMPLES = r"""
- name: Pin both services to the release
  connectin.rollback.compose_image:
    project_dir: /srv/connectin
    tags:
      api: v1.4.2
      web: v1.4.2
  become: true

- name: Pin the API and say so in the ledger first, so that the pin is no local change later
  connectin.rollback.compose_image:
    project_dir: /srv/connectin
    tags:
      api: v1.4.2
    ledger:
      release: v1.4.2
      run_id: 20260504T030201Z-7c1e
  become: true
"""

RETURN = r"""
changes:
  description: Every tag that was set, or would be in check mode, sorted by service.
  returned: always
  type: list
  elements: dict
  contains:
    service:
      description: The service.
      type: str
      sample: api
    file:
      description: The file that was changed.
      type: str
      sample: /srv/connectin/docker-compose.yml
    line:
      description: The number of the line.
      type: int
      sample: 12
    before:
      description: The line before, empty for a variable that is new.
      type: str
      sample: "    image: ${REGISTRY}/connectin/api:v1.4.3"
    after:
      description: The line after.
      type: str
      sample: "    image: ${REGISTRY}/connectin/api:v1.4.2"
files:
  description: The compose files and the env file, changed or not, with the SHA-256 that they have after the task.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
      sample: /srv/connectin/docker-compose.yml
    sha256:
      description: The hash of its content.
      type: str
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
entered:
  description:
    - What the ledger got before the files were written; empty without O(ledger), in check mode, when no compose file
      changes, and when the ledger says so already.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
      sample: /srv/connectin/docker-compose.yml
    sha256:
      description: The hash of the content that was to be written.
      type: str
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
diff:
  description: For each file that changes what stood there before and what stands there after.
  returned: always
  type: list
  elements: dict
  sample:
    - before_header: /srv/connectin/.env
      after_header: /srv/connectin/.env
      before: "WEB_TAG=v1.4.3\n"
      after: "WEB_TAG=v1.4.2\n"
"""

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _compose_file,
    _env_file,
    _ledger,
    _lock,
    _state_dir,
)

try:
    import yaml
except ImportError:
    yaml = None

Error = _compose_file.ComposeFileError


def read(path: str) -> str:
    """The text of a file with its line ends as they are."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except OSError as error:
        raise Error(f"Cannot read {path}: {error.strerror}. See: ls -l {path}") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path} is not UTF-8 (byte {error.start}). Convert it: iconv -t UTF-8") from error


def load(params: Mapping[str, Any]) -> _compose_file.Files:
    """Read the compose files and the env file of the project."""
    directory = os.path.abspath(params["project_dir"])
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise Error(
            f"Cannot read {directory}: {error.strerror}. Correct project_dir, or run it with become."
        ) from error
    env_path = os.path.normpath(os.path.join(directory, params["env_file"]))
    texts = {env_path: read(env_path)} if os.path.exists(env_path) else {}
    asked = {key: _env_file.find(texts.get(env_path, ""), key) for key in ("COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR")}
    compose = _compose_file.project_files(
        directory,
        params["compose_files"],
        names,
        *(os.environ.get(key) or (entry.value if entry else "") for key, entry in asked.items()),
    )
    if not compose:
        raise Error(f"There is no compose file in {directory}; looked for {', '.join(_compose_file.FILE_NAMES)}.")
    texts.update((path, read(path)) for path in compose)
    return _compose_file.Files(tuple(compose), env_path, texts)


def sha256(text: str) -> str:
    """The hash of a file with this text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def enter(options: Mapping[str, Any], texts: Mapping[str, str], env_path: str) -> list[dict[str, str]]:
    """Say in the ledger what the compose files are about to become. Returns what was entered; [] when it is known."""
    pins = [{"path": path, "sha256": sha256(text)} for path, text in sorted(texts.items()) if path != env_path]
    if not pins:
        return []
    wanted = _ledger.Entry(
        kind="mark",
        release=_ledger.check_release(options["release"]),
        at=_lock.to_iso(time.time()),
        pins=pins,
        who=options["who"] or _state_dir.login_name(),
        run_id=options["run_id"],
    )
    path = os.path.join(options["state_dir"], "ledger.jsonl")
    with _state_dir.exclusive(options["state_dir"]):
        text = _state_dir.read_text(path) or ""
        entry = _ledger.next_entry(_ledger.parse(text).entries, wanted)
        if entry:
            _state_dir.append_text(path, _ledger.appended(text, entry))
    return pins if entry else []


def write_all(module: AnsibleModule, texts: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Put all texts in place, each whole; when one cannot be, those that were are put back."""
    done: list[str] = []
    try:
        # All are written beside their targets first: what can fail for lack of room or rights fails here.
        prepared = {path: _temporary(module, path, text) for path, text in texts.items()}
    except OSError as error:
        raise Error(
            f"Cannot write to {os.path.dirname(error.filename or '')}: {error.strerror}. Nothing was changed."
        ) from error
    for path, temporary in prepared.items():
        target = os.path.realpath(path)
        if not os.path.exists(target):
            # A new env file stays private; whoever owns the project has to read it.
            owner = os.stat(os.path.dirname(target))
            with contextlib.suppress(PermissionError):
                os.chown(temporary, owner.st_uid, owner.st_gid)
            os.replace(temporary, target)
            done.append(path)
            continue
        try:
            # Keeps mode, owner and SELinux context of the file that is replaced.
            module.atomic_move(temporary, target)
        except SystemExit:
            for finished in done:
                with contextlib.suppress(OSError):
                    os.replace(_temporary(module, finished, before.get(finished, "")), os.path.realpath(finished))
            raise
        done.append(path)


def _temporary(module: AnsibleModule, path: str, text: str) -> str:
    """A synced file with the text, beside what ``path`` leads to; it goes with the module where it is not used."""
    target = os.path.realpath(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    module.add_cleanup_file(name)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return name


def diffs(
    files: _compose_file.Files, texts: Mapping[str, str], changes: list[_compose_file.Change]
) -> list[dict[str, str]]:
    """One entry a changed file, of it only the changed lines: the others may hold secrets."""
    found = []
    for path, text in texts.items():
        if path == files.env_path:
            own = [change for change in changes if change.file == path]
            before = "".join(f"{change.before}\n" for change in own if change.before)
            after = "".join(f"{change.after}\n" for change in own)
        else:
            # Only spans within a line are replaced, so the lines stand opposite each other.
            pairs = zip(files.texts[path].splitlines(True), text.splitlines(True))
            differing = [pair for pair in pairs if pair[0] != pair[1]]
            before, after = ("".join(pair[side] for pair in differing) for side in (0, 1))
        found.append({"before": before, "after": after, "before_header": path, "after_header": path})
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path", "required": True},
            "compose_files": {"type": "list", "elements": "path", "default": []},
            "env_file": {"type": "path", "default": ".env"},
            "tags": {"type": "dict", "required": True},
            "ledger": {
                "type": "dict",
                "options": {
                    "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
                    "release": {"type": "str", "required": True},
                    "who": {"type": "str"},
                    "run_id": {"type": "str", "default": ""},
                },
            },
        },
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "changes": [], "files": [], "entered": [], "diff": []}
    if yaml is None:
        module.fail_json(msg=f"{sys.executable} has no PyYAML. Install it: apt-get install python3-yaml", **result)
    # YAML reads a tag such as 1.4 as a number.
    tags = {str(service): str(tag) for service, tag in module.params["tags"].items()}
    try:
        files = load(module.params)
        texts, changes = _compose_file.set_tags(files, tags, yaml)
        for variable, others in _compose_file.sharing(files, tags, yaml).items():
            module.warn(
                f"{variable} in {files.env_path} also sets the image of {', '.join(others)}: its next up follows"
            )
        if texts and not module.check_mode:
            if module.params["ledger"]:
                result["entered"] = enter(module.params["ledger"], texts, files.env_path)
            write_all(module, texts, files.texts)
    except (Error, _ledger.LedgerError, _state_dir.StateDirError) as error:
        module.fail_json(msg=str(error), **result)
    after = {**files.texts, **texts}
    result["changed"] = bool(texts)
    result["changes"] = [vars(change) for change in changes]
    result["files"] = [{"path": path, "sha256": sha256(after[path])} for path in sorted(after)]
    result["diff"] = diffs(files, texts, changes)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
