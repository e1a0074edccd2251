#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: release_ledger
short_description: Record on a host which releases ran there and how they were judged
version_added: 0.1.0
description:
  - Keeps a ledger on each host of the releases that came to run there, with the images of their services, the
    migrations that they contain, and whether they were good.
  - The ledger is what C(previous) is resolved from. Lists of images, modification times and tags only say what is
    on a disk, never what ran and was good.
  - It is only ever appended to. A line is on disk when the module returns, and a line that a crash cut off is left
    out when the ledger is read; the next one starts on a line of its own.
  - It also says whether deploys are frozen, which they are after a rollback until somebody lifts that, and it can hold
    the images of the releases that a rollback may go back to.
author: ConnectIn operations (@connectin)
options:
  state:
    description:
      - V(present) makes the ledger say what the other options say, by one more line for each thing that it does not
        say yet, all of them in one append.
      - V(listed) only reads it.
      - V(thawed) lifts the freeze, with O(who) and O(why); where nothing is frozen it changes nothing.
    type: str
    choices: [present, listed, thawed]
    default: present
  state_dir:
    description:
      - The directory for the ledger, on each host. It is made with mode V(0700) where it is missing.
    type: path
    default: /var/lib/connectin-rollback
  release:
    description:
      - The release, by its git tag, which is the tag of its images too. Required with O(state=present).
    type: str
  kind:
    description:
      - V(release) when the release came to run here, V(mark) when something about it became known, such as a verdict.
      - By default it is V(release) if any of O(services), O(migrations), O(env_file) and O(pins) is given, and V(mark)
        otherwise.
      - A release that runs here already with the same images and migrations, and is only judged anew, gets a V(mark)
        in any case, so that the time of its arrival stays.
    type: str
    choices: [release, mark]
  verdict:
    description:
      - How the release turned out. Only one that is V(good) is ever C(previous).
      - A release that arrives V(unknown), which is the default then, keeps the verdict that the same images were
        given before. A V(mark) of V(unknown) withdraws a verdict.
    type: str
    choices: [good, bad, unknown]
  services:
    description:
      - What runs for each Compose service, as a dictionary of dictionaries with the keys V(image) (as configured),
        V(digest) (in the registry), V(image_id) and V(build_id) (as the service reports it). A key that is left out
        is unknown.
    type: dict
  migrations:
    description:
      - The names of the migrations that the release contains. Leave it out when that is not known.
    type: list
    elements: str
  env_file:
    description:
      - The C(.env) that the release runs with. Its hash goes into the ledger, and a copy with mode V(0600) to
        C(releases/<release>/env) in the state directory. Its values are never shown.
    type: path
  pins:
    description:
      - The files that were written to pin images, so that they do not count as changes that somebody made by hand.
    type: list
    elements: dict
    suboptions:
      path:
        description:
          - The file.
        type: str
        required: true
      sha256:
        description:
          - The hash of its content as it was written.
        type: str
        required: true
  left:
    description:
      - The release that was left for O(release). In the same append it is marked V(bad), with O(who), O(why) and
        O(run_id).
      - One that never ran here, that is called V(bad) already, or that is O(release) itself, gets no mark.
    type: str
    default: ""
  freeze:
    description:
      - Whether deploys are frozen from now on, until O(state=thawed). The freeze is a line of the same append and names
        O(release), O(who), O(why) and O(run_id).
      - One that the same run made for the same release already stays as it is. V(false) never lifts one.
      - With O(release) and no other fact, this freezes by hand.
    type: bool
    default: false
  hold_images:
    description:
      - Whether the images of the newest good releases are held, with O(state=present), so that C(docker image prune -a)
        spares them. It removes every image that no container uses, whatever its tags.
      - Each such image gets a container that is created and never started. It has no network, no volume and no command
        of the image, and is none of the Compose project. Its labels are C(connectin.rollback.hold) with the release and
        C(connectin.rollback.service) with the service.
      - Containers for releases that are none of these any more are removed, so their images can be pruned again.
      - An image that is not on the host cannot be held; it is in RV(not_held).
      - What removes stopped containers removes these too. C(docker system prune -a) does that first, and then the
        images, so they do not survive it; C(docker container prune) leaves the images to the next C(docker image prune
        -a). Spare them with C(docker system prune -a --filter label!=connectin.rollback.hold). The next task with
        this option makes the containers again for images that are still there.
      - Where the Docker Engine does not answer, the ledger is written all the same and a warning says so.
    type: bool
    default: false
  hold_releases:
    description:
      - Of how many releases O(hold_images) holds the images. Those that are V(good) count, the one that came last
        first, the one that runs among them.
    type: int
    default: 5
  who:
    description:
      - Who brought or judged the release, or lifts the freeze. By default the user who is logged in on the
        host, behind C(sudo) the one who called it.
    type: str
  why:
    description:
      - The reason, for people.
    type: str
    default: ""
  run_id:
    description:
      - The rollback run that this belongs to, if any.
    type: str
    default: ""
attributes:
  check_mode:
    description: Can run in check mode and tells what it would append, hold and let go, without doing it.
    support: full
  diff_mode:
    description: Shows the lines that are appended. The content of O(env_file) is no part of them.
    support: full
seealso:
  - module: connectin.rollback.stack_info
"""

EXAMPLES = r"""
- name: Record the release that a deploy brought
  connectin.rollback.release_ledger:
    release: v1.4.2
    services:
      api:
        image: registry.example.com/connectin/api:v1.4.2
        digest: sha256:3f1c9b52a0f4b1c83b1c0c6d0dc1b6d86c0b7c1fd3a1ec8b1b2f0c34d7a65e90
        build_id: v1.4.2
    migrations:
      - 20260301090000_init
      - 20260412101500_add_headline
    env_file: /srv/connectin/.env
    who: deploy pipeline 4711
  become: true

- name: Mark it good once it has proved itself
  connectin.rollback.release_ledger:
    release: v1.4.2
    verdict: good
    why: 24 hours without an alert
  become: true

- name: After a rollback record the target, call the release that was left bad, and freeze deploys
  connectin.rollback.release_ledger:
    release: v1.4.1
    verdict: good
    services:
      api:
        image: registry.example.com/connectin/api:v1.4.1
    left: v1.4.2
    freeze: true
    hold_images: true
    why: v1.4.2 answers 503 on /health
    run_id: 20260504T030201Z-7c1e
  become: true

- name: Let deploys go on
  connectin.rollback.release_ledger:
    state: thawed
    who: alice
    why: v1.4.3 repairs it
  become: true

- name: See where this host could go back to
  connectin.rollback.release_ledger:
    state: listed
  become: true
  register: ledger
"""

RETURN = r"""
entry:
  description:
    - The line about O(release) that was appended, or would be in check mode, with O(state=thawed) the one that lifts
      the freeze; null when the ledger says so already.
  returned: success
  type: dict
  contains:
    v:
      description: The version of the format.
      type: int
      sample: 1
    kind:
      description: V(release), V(mark), V(freeze) or V(thaw).
      type: str
      sample: mark
    release:
      description: The release.
      type: str
      sample: v1.4.2
    at:
      description: When, by the clock of the host, in UTC.
      type: str
      sample: "2026-05-04T03:02:01Z"
    verdict:
      description: V(good), V(bad), V(unknown), or null in a mark that states none.
      type: str
      sample: good
    services:
      description: The services as given, each with all four keys; null when not stated.
      type: dict
      sample: null
    migrations:
      description: The migrations as given; null when not stated.
      type: list
      elements: str
      sample: null
    env_sha256:
      description: The hash of the C(.env); null when not stated.
      type: str
      sample: null
    pins:
      description: The pinned files as given; null when not stated.
      type: list
      elements: dict
      sample: null
    who:
      description: Who.
      type: str
      sample: alice
    why:
      description: The reason.
      type: str
      sample: 24 hours without an alert
    run_id:
      description: The rollback run.
      type: str
      sample: ""
appended:
  description: All lines that were appended, in their order, or would be in check mode; each like RV(entry).
  returned: success
  type: list
  elements: dict
  sample: []
frozen:
  description: Why deploys have to wait, null when they need not.
  returned: success
  type: dict
  contains:
    release:
      description: The release that the host was taken back to.
      type: str
      sample: v1.4.1
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
      sample: v1.4.2 answers 503 on /health
    run_id:
      description: The rollback run, empty when they were frozen by hand.
      type: str
      sample: 20260504T030201Z-7c1e
held:
  description: The images that are held, or would be in check mode; empty without O(hold_images).
  returned: success
  type: list
  elements: dict
  contains: &held
    service:
      description: The service.
      type: str
      sample: api
    release:
      description: The release.
      type: str
      sample: v1.4.1
    image:
      description: The image, as the ledger names it.
      type: str
      sample: registry.example.com/connectin/api:v1.4.1
not_held:
  description: The images that should be held and are not, empty without O(hold_images).
  returned: success
  type: list
  elements: dict
  contains:
    <<: *held
    why:
      description: The reason.
      type: str
      sample: not on this host
let_go:
  description: The images that are held no more, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains: *held
entries:
  description: How many readable lines the ledger has, in check mode how many it would have.
  returned: success
  type: int
  sample: 7
current:
  description: The release that came to run here last, empty when none did.
  returned: success
  type: str
  sample: v1.4.3
previous:
  description: The newest release marked good other than RV(current), empty when there is none.
  returned: success
  type: str
  sample: v1.4.2
releases:
  description: The releases that ran here, the one that came last first.
  returned: success
  type: list
  elements: dict
  contains:
    release:
      description: The release.
      type: str
      sample: v1.4.2
    verdict:
      description: V(good), V(bad) or V(unknown).
      type: str
      sample: good
    at:
      description: When it last came to run here, in UTC.
      type: str
      sample: "2026-05-03T09:00:00Z"
    who:
      description: Who brought it.
      type: str
      sample: deploy pipeline 4711
    why:
      description: The reason given with the verdict.
      type: str
      sample: 24 hours without an alert
    services:
      description: For each service its V(image), V(digest), V(image_id) and V(build_id).
      type: dict
      sample:
        api:
          image: registry.example.com/connectin/api:v1.4.2
          digest: sha256:3f1c9b52a0f4b1c83b1c0c6d0dc1b6d86c0b7c1fd3a1ec8b1b2f0c34d7a65e90
          image_id: ""
          build_id: v1.4.2
    migrations:
      description: The migrations that it contains, null when not known.
      type: list
      elements: str
      sample: [20260301090000_init, 20260412101500_add_headline]
torn:
  description: Whether the last line that was found is a fragment which a crash left.
  returned: success
  type: bool
  sample: false
diff:
  description: The lines that are appended.
  returned: success
  type: dict
  contains:
    before:
      description: Always empty.
      type: str
      sample: ""
    after:
      description: The lines, empty when there is none to append.
      type: str
      sample: ""
    before_header:
      description: The path of the ledger.
      type: str
      sample: /var/lib/connectin-rollback/ledger.jsonl
    after_header:
      description: The path of the ledger.
      type: str
      sample: /var/lib/connectin-rollback/ledger.jsonl
"""

import hashlib
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _docker_engine,
    _image_hold,
    _ledger,
    _lock,
    _state_dir,
)


def listed(path: str, entries: tuple[_ledger.Entry, ...], torn: bool) -> dict[str, Any]:
    """The results of a reading; a change only replaces some of them."""
    return {
        "changed": False,
        "entry": None,
        "appended": [],
        "frozen": _ledger.frozen(entries),
        "held": [],
        "not_held": [],
        "let_go": [],
        "entries": len(entries),
        "current": _ledger.current(entries),
        "previous": _ledger.previous(entries),
        "releases": _ledger.fold(entries),
        "torn": torn,
        "diff": {"before": "", "after": "", "before_header": path, "after_header": path},
    }


def read_env(path: str | None) -> bytes | None:
    """The content of the .env to keep, None when none is asked for."""
    if path is None:
        return None
    content = _state_dir.read_bytes(path)
    if content is None:
        raise _ledger.LedgerError(f"There is no {path} to keep with the release. Correct env_file, or leave it out.")
    return content


def record(module: AnsibleModule, path: str) -> dict[str, Any]:
    """Make the ledger say what the options say. Returns the module's results; the caller holds the directory."""
    params = module.params
    env = read_env(params["env_file"])
    wanted = _ledger.wanted(
        params,
        at=_lock.to_iso(time.time()),
        who=params["who"] or _state_dir.login_name(),
        env_sha256=None if env is None else hashlib.sha256(env).hexdigest(),
    )
    text = _state_dir.read_text(path) or ""
    ledger = _ledger.parse(text)
    left = _ledger.next_left(ledger.entries, params["left"], wanted)
    entry = _ledger.next_entry(ledger.entries, wanted)
    freeze = _ledger.next_freeze(ledger.entries, wanted) if params["freeze"] else None
    # A crash may cut the append: what is safe without the rest comes first, the next call adds what is missing.
    added = tuple(line for line in (left, entry, freeze) if line)

    copy = os.path.join(params["state_dir"], "releases", wanted.release, "env")
    copy_is_missing = env is not None and _state_dir.read_bytes(copy) != env
    if not module.check_mode:
        # The copy comes first: a line that tells of a hash without its content would be a promise nobody can keep.
        if copy_is_missing:
            _state_dir.make_directory(os.path.dirname(os.path.dirname(copy)))
            _state_dir.make_directory(os.path.dirname(copy))
            _state_dir.write_atomic(copy, env)
        if added:
            _state_dir.append_text(path, _ledger.appended(text, *added))

    warn(module, path, ledger, wanted)
    result = written(path, ledger, entry, added)
    result["changed"] = bool(added) or copy_is_missing
    return result


def thaw(module: AnsibleModule, path: str) -> dict[str, Any]:
    """Lift the freeze. Returns the module's results; the caller holds the directory."""
    params = module.params
    text = _state_dir.read_text(path) or ""
    ledger = _ledger.parse(text)
    who = params["who"] or _state_dir.login_name()
    entry = _ledger.next_thaw(ledger.entries, _lock.to_iso(time.time()), who, params["why"], params["run_id"])
    if entry and not module.check_mode:
        _state_dir.append_text(path, _ledger.appended(text, entry))
    warn(module, path, ledger)
    return written(path, ledger, entry, (entry,) if entry else ())


def written(
    path: str, ledger: _ledger.Ledger, entry: _ledger.Entry | None, added: tuple[_ledger.Entry, ...]
) -> dict[str, Any]:
    """The results once ``added`` is in the ledger; ``entry`` is the one of them that the options are about."""
    result = listed(path, ledger.entries + added, ledger.torn)
    result["changed"] = bool(added)
    result["entry"] = entry and entry.as_dict()
    result["appended"] = [line.as_dict() for line in added]
    result["diff"]["after"] = "".join(line.as_line() for line in added)
    return result


def hold(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Hold the images of the releases in the results, and add what came of it to these. Raises EngineError."""
    asked = _image_hold.wanted(result["releases"], module.params["hold_releases"])
    engine = _docker_engine.Engine(_docker_engine.socket_path(os.environ.get("DOCKER_HOST", "")))
    try:
        found = {one: _image_hold.find(one, engine.image) for one in asked}
        holders = [_image_hold.holder(container) for container in engine.containers(_image_hold.RELEASE_LABEL)]
        decision = _image_hold.decide(asked, found, holders)
        result["not_held"] += [{**shown(one), "why": "not on this host"} for one in decision.missing]
        result["held"] += [shown(one.wanted) for one in decision.kept]
        # First what goes: a holder of other images of a release has the name that the new one gets.
        for holder in decision.remove:
            if not module.check_mode:
                engine.remove(holder.container)
            result["let_go"].append({"service": holder.service, "release": holder.release, "image": holder.image})
            result["changed"] = True
        for one in decision.create:
            try:
                if not module.check_mode:
                    image = engine.image(one.reference) or {}
                    engine.create(_image_hold.container(one, image), one.wanted.name)
            except _docker_engine.EngineError as error:
                if error.kind != "http":
                    raise
                result["not_held"].append({**shown(one.wanted), "why": str(error)})
                module.warn(f"{one.wanted.image} of {one.wanted.release} is not held: {error}")
            else:
                result["held"].append(shown(one.wanted))
                result["changed"] = True
    finally:
        engine.close()
    for key in ("held", "not_held", "let_go"):
        result[key].sort(key=lambda one: (one["release"], one["service"]))


def shown(asked: _image_hold.Wanted) -> dict[str, str]:
    """An image as the results name it."""
    return {"service": asked.service, "release": asked.release, "image": asked.image}


def warn(module: AnsibleModule, path: str, ledger: _ledger.Ledger, wanted: _ledger.Entry | None = None) -> None:
    """Tell of lines that are left out, and of a release that was marked without ever having run here."""
    for number in ledger.unreadable:
        module.warn(
            f"Line {number} of {path} cannot be read and is left out; a crash while it was written leaves such a line. "
            f"See it with: sed -n {number}p {path}"
        )
    stated = wanted and (wanted.verdict is not None or wanted.pins is not None)
    if wanted and stated and wanted.kind == "mark" and not _ledger.ran_here(ledger.entries, wanted.release):
        module.warn(f"{wanted.release} never ran on this host as far as its ledger knows; it is marked all the same.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "listed", "thawed"], "default": "present"},
            "state_dir": {"type": "path", "default": "/var/lib/connectin-rollback"},
            "release": {"type": "str"},
            "kind": {"type": "str", "choices": ["release", "mark"]},
            "verdict": {"type": "str", "choices": ["good", "bad", "unknown"]},
            "services": {"type": "dict"},
            "migrations": {"type": "list", "elements": "str"},
            "env_file": {"type": "path"},
            "pins": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "str", "required": True},
                    "sha256": {"type": "str", "required": True},
                },
            },
            "left": {"type": "str", "default": ""},
            "freeze": {"type": "bool", "default": False},
            "hold_images": {"type": "bool", "default": False},
            "hold_releases": {"type": "int", "default": 5},
            "who": {"type": "str"},
            "why": {"type": "str", "default": ""},
            "run_id": {"type": "str", "default": ""},
        },
        required_if=[("state", "present", ("release",))],
        supports_check_mode=True,
    )
    directory = module.params["state_dir"]
    path = os.path.join(directory, "ledger.jsonl")
    state = module.params["state"]
    # There is nothing to lift where there is no ledger, so nothing is made for it either.
    reading = state == "listed" or module.check_mode or (state == "thawed" and not os.path.isdir(directory))
    try:
        with _state_dir.shared(directory) if reading else _state_dir.exclusive(directory):
            if state == "present":
                result = record(module, path)
            elif state == "thawed":
                result = thaw(module, path)
            else:
                ledger = _ledger.parse(_state_dir.read_text(path) or "")
                warn(module, path, ledger)
                result = listed(path, ledger.entries, ledger.torn)
    except (_ledger.LedgerError, _state_dir.StateDirError) as error:
        module.fail_json(msg=str(error))
    if state == "present" and module.params["hold_images"]:
        # With the directory free again: an engine that takes its time keeps nobody from the ledger.
        try:
            hold(module, result)
        except _docker_engine.EngineError as error:
            module.warn(
                f"The ledger is written, but the images of good releases are not all held: {error}. Until the same "
                "task runs again with the Docker Engine at work, docker image prune -a may remove them."
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
