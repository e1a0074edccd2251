# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One plan for the fleet, made from one reading of every host.

Everything here is pure: readings in, plan out. A plan either carries refusals, every reason of every host at once,
or says what will change where and what that loses. Nothing is decided again after it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _lock, _rollout
from ansible_collections.connectin.rollback.plugins.module_utils._migration_policy import Choice, choose
from ansible_collections.connectin.rollback.plugins.module_utils._stack import PARTS, release_of, runs_image

# What both git and an image registry accept as a tag (distribution reference grammar: 128 characters at most).
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Options:
    """What the operator and the inventory say.

    ``components`` maps each host to the parts it carries; ``missing`` are hosts of the fleet that a limit cut off,
    ``unread`` those that failed by themselves before there was a plan;
    ``excluded`` maps excluded hosts to "" when out of rotation, else to the reason why that is not shown; ``drained``
    are the others that the load balancer says are out of it, True for those that are out of all of it.
    """

    release: str
    parts: tuple[str, ...]
    policy: str
    consent: str
    components: Mapping[str, Sequence[str]]
    services: Mapping[str, str]  # part -> Compose service
    run_id: str
    runner: str = ""
    missing: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    excluding: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by host, what its rollback_exclude names
    project_dirs: Mapping[str, str] = field(default_factory=dict)  # by host
    image_source: str = "registry"
    writers: tuple[str, ...] = ()  # Compose services that write to the database
    backup: bool = False  # whether the database is dumped before data is lost
    transaction: str = "all"  # how migrations go down: all in one transaction, or each in its own
    failed: str = "fail"  # what happens to a migration that failed halfway
    switch: str = "stop_first"  # whether a new container starts before the old one is stopped
    frontend_source: str = "image"
    asset_overlap: int = 0  # seconds for which the frontend's assets of the release before stay served
    batches: tuple[str, ...] = _rollout.DEFAULT_BATCHES
    on_failure: str = "auto"
    max_failed: int = 1
    min_serving: str = "50%"
    hooks: bool = False  # whether hosts can be taken out of rotation
    drained: Mapping[str, bool] = field(default_factory=dict)
    expected: str = ""  # the digest of the plan that was approved, '' for any
    resumes: bool = False  # whether the operator takes an interrupted run up again
    again: Mapping[str, Any] = field(default_factory=dict)  # what was set for this run, for the commands that follow


def refusal(host: str, code: str, message: str, then: str) -> dict[str, str]:
    """Return one reason not to start: where, what, and the next command to type."""
    return {"host": host, "code": code, "message": message, "next": then}


def is_release_name(name: str) -> bool:
    """Return whether a name can be a git tag and an image tag."""
    return bool(RELEASE.fullmatch(name)) and ".." not in name and not name.endswith((".", ".lock"))


def make_plan(
    stacks: Mapping[str, Mapping[str, Any]], database: Mapping[str, Any] | None, options: Options
) -> dict[str, Any]:
    """Return the plan for readings ``stacks`` (host to the result of stack_info) and ``database``.

    ``database`` is ``{"error": "", "info": {...}}`` from prisma_migration_info, or None when no part needs it.
    """
    refusals = _fleet_refusals(stacks, options)
    good: dict[str, Mapping[str, Any]] = {}
    for host, stack in stacks.items():
        reasons = _host_refusals(host, stack)
        refusals += reasons
        if stack.get("services") is not None and not _lost(stack):
            good[host] = stack
    release = _target(good, options, refusals)
    refusals += _frozen(good, options) + _not_begun(good, options)
    if release:
        refusals += _target_refusals(good, release, options)
    refusals += _switch_refusals(good, options)
    database_plan = _plan_database(good, database, release, options, refusals)
    # The same one for every run that is started at the same time: its lock decides between them.
    coordinator = min(good, default="")
    hosts = {host: _plan_host(host, stack, release, options, database_plan) for host, stack in good.items()}
    undo = bool(database_plan["down"])
    earlier = _earlier(good)
    _take_up(hosts, database_plan, good, earlier)
    plan: dict[str, Any] = {
        "release": release,
        "requested": options.release,
        "parts": list(options.parts),
        "run_id": options.run_id,
        "coordinator": coordinator,
        "runner": options.runner,
        "image_source": options.image_source,
        "policy": options.policy,
        "excluded": list(options.excluded),
        "hosts": hosts,
        "database": database_plan,
        # The parts whose services are started: the API also where only the database goes down.
        "moves": [
            part
            for part in ("frontend", "application")
            if part in options.parts or (part == "application" and database_plan["undone"])
        ],
        "online": not undo,
        "rollout": _plan_rollout(hosts, bool(database_plan["undone"]), options),
        "refusals": _unique(refusals),
        "warnings": list(database_plan.pop("warnings")) + _warnings(good, options),
        # What was begun is brought to its end, be it only that its lock is given back.
        "changed": undo or any(host["change"] for host in hosts.values()) or bool(earlier),
        # What a run has kept by itself a moment ago, when it plans again, is no earlier try.
        "resumed": bool(earlier) and options.resumes,
        "again": {name: str(value) for name, value in options.again.items() if value != DEFAULTS.get(name, "")},
        "candidates": [] if release else candidates(good, database),
    }
    plan["refusals"] += _too_many_batches(plan)
    plan["digest"] = plan_digest(plan)
    if options.expected and options.expected != plan["digest"]:
        plan["refusals"].append(
            refusal(
                "fleet",
                "plan_changed",
                f"the plan that was approved is {options.expected}, and the fleet now gives {plan['digest']}",
                f"look at it again: ansible-playbook rollback_plan.yml -e release={release or options.release}",
            )
        )
    return plan


# What a plan keeps of a service as it was before the first change.
_BEFORE = ("before_image_id", "before_build_id", "before_state", "before_health")


def plan_to_keep(plan: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return what a host keeps of the plan, for a run that takes this one up: itself, and what concerns all hosts."""
    shown_only = ("refusals", "warnings", "candidates")
    kept = {key: value for key, value in plan.items() if key not in shown_only}
    return {**kept, "hosts": {host: plan["hosts"][host]}}


def _earlier(good: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return ``{hosts, database}`` that the earlier tries of this run kept, None where there was none.

    A try that was killed while it kept its plan has left some hosts with that of the one before it.
    """
    kept = [stack["run"]["plan"] for stack in good.values() if stack.get("run")]
    if not kept:
        return None
    databases = [plan["database"] for plan in kept]
    lost: list[Mapping[str, Any]] = []
    for was in databases:
        lost += _lost_besides(lost, was["lost"])
    return {
        "hosts": {host: entry for plan in kept for host, entry in plan["hosts"].items()},
        "database": {
            "undone": list(dict.fromkeys(name for was in databases for name in was["undone"])),
            "lost": lost,
            "dumps": list(dict.fromkeys(path for was in databases for path in was["dumps"])),
            "before": databases[0]["before"],
        },
    }


def _lost_besides(known: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the losses of migrations that are not among the known ones."""
    migrations = {entry["migration"] for entry in known}
    return [entry for entry in more if entry["migration"] not in migrations]


def _take_up(
    hosts: Mapping[str, dict[str, Any]],
    database: dict[str, Any],
    good: Mapping[str, Mapping[str, Any]],
    earlier: Mapping[str, Any] | None,
) -> None:
    """Keep to what there was before the first change of this run, where an earlier try of it was interrupted.

    ``undone`` are the migrations that the run takes down, its earlier tries included, ``lost`` what that loses,
    ``dumps`` where that can be had back from, ``before`` what was applied.
    """
    database["undone"] = [choice["name"] for choice in database["down"]]
    database["lost"] = list(database["price"])
    database["dumps"] = [database["backup"]["path"]] if database["backup"] else []
    if not earlier:
        return
    was = earlier["database"]
    gone = [name for name in was["undone"] if name not in database["undone"]]
    database["undone"] += gone
    # Also of migrations that are applied again by now: their rows may not be back yet.
    database["lost"] += _lost_besides(database["lost"], was["lost"])
    database["dumps"] = list(dict.fromkeys([*database["dumps"], *was["dumps"]]))
    database["before"] = was["before"]
    for host, entry in hosts.items():
        found = earlier["hosts"].get(host)
        if not found:
            continue
        entry["before"] = found["before"]
        # What was begun there goes through its gate once more, and is given back to its users.
        entry["change"] = entry["change"] or found["change"]
        # Where this run itself took it out of rotation, it goes back into it.
        entry["before_drained"] = found["before_drained"]
        entry["stop_writers"] = entry["stop_writers"] or (bool(gone) and found["stop_writers"])
        for name, service in entry["services"].items():
            service.update({key: found["services"][name][key] for key in _BEFORE if name in found["services"]})
            now = good[host]["services"].get(name) or {}
            nothing = service["before_state"] == "absent" and not now.get("running")
            if not nothing and not _rollout.runs_before(service, now, entry["before"]):
                entry["touched"] = True
                # Users may have reached it, as far as anybody knows.
                entry["traffic"] = entry.get("traffic", False) or (
                    _rollout.runs_target(service, now) and not entry["out"]
                )


def _plan_rollout(hosts: Mapping[str, Mapping[str, Any]], undo: bool, options: Options) -> dict[str, Any]:
    """Return how the fleet is switched: the batches, how many may fail, how many of each part have to serve."""
    carriers = {
        part: [host for host, entry in hosts.items() if part in entry["components"]] for part in options.services
    }
    sizes = _rollout.batch_sizes(options.batches)
    return {
        # With the writers stopped everywhere, batches would only prolong that: one canary, then all others at once.
        "batches": [_rollout.CANARY, "100%"] if undo else sizes,
        "on_failure": options.on_failure,
        "max_failed": options.max_failed,
        "min_serving": {
            part: _rollout.at_least(options.min_serving, len(found)) for part, found in carriers.items() if found
        },
        "hooks": options.hooks,
    }


# Of what was set for this run, the next command repeats what is not so by itself. Without a default here: ''.
DEFAULTS = {
    "rollback_transaction": "all",
    "rollback_failed_migrations": "fail",
    "rollback_on_failure": "auto",
    "rollback_backup": True,
}

# Each batch is a level of Ansible's own recursion, and takes some seconds.
MAX_BATCHES = 100


def _too_many_batches(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    number = len(_rollout.forecast(plan)) if plan["release"] else 0
    if number <= MAX_BATCHES:
        return []
    return [
        refusal(
            "fleet",
            "batches_too_many",
            f"rollback_batches makes {number} batches, and more than {MAX_BATCHES} are not supported",
            'set larger ones, for example -e \'{"rollback_batches": ["canary", "10%"]}\'',
        )
    ]


def _not_begun(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
    """Refuse to take up a run that no host is locked by: what an ended one kept is of another day."""
    held = {str((stack.get("lock") or {}).get("run_id") or "") for stack in good.values()}
    if not options.resumes or options.run_id in held:
        return []
    return [
        refusal(
            "fleet",
            "resume_unknown",
            f"no host is locked by the run {options.run_id}: it ended, or never began",
            "leave rollback_resume out; ansible-playbook lock.yml shows which runs hold a lock",
        )
    ]


def _frozen(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
    """Refuse ``previous`` after a rollback: what it names then is older than what people have in mind."""
    frozen = {host: stack["ledger"].get("frozen") for host, stack in good.items() if stack["ledger"].get("frozen")}
    if options.release != "previous" or not frozen or _pinned(good, options.run_id):
        return []
    since = next(iter(frozen.values()))
    return [
        refusal(
            "fleet",
            "frozen",
            f"the fleet was rolled back to {since['release']} on {since['at']}, and deploys are frozen since: "
            "'previous' would go further back",
            "name the release: -e release=<release>; or lift the freeze: ansible-playbook deploy_freeze.yml "
            "-e rollback_freeze=lift",
        )
    ]


def plan_digest(plan: Mapping[str, Any]) -> str:
    """Return a fingerprint of what a plan would do: two readings that give the same one saw the same world.

    How many rows would be lost is not part of it: the running release goes on writing while the target is fetched,
    and whether that may be lost is asked of every plan by itself. An image that is built gets its digest on the way.
    """
    pulled = plan["image_source"] == "registry"
    decided = {
        "release": plan["release"],
        "parts": plan["parts"],
        "down": [choice["name"] for choice in plan["database"]["down"]],
        "hosts": {
            host: [
                entry["change"],
                entry["commit"],
                {n: [s["change"], s["before"], s["digest"] if pulled else ""] for n, s in entry["services"].items()},
            ]
            for host, entry in plan["hosts"].items()
        },
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def _lost(stack: Mapping[str, Any]) -> bool:
    return bool(stack.get("unreachable") or stack.get("failed"))


def _first_line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def _host_refusals(host: str, stack: Mapping[str, Any]) -> list[dict[str, str]]:
    if stack.get("unreachable"):
        return [
            refusal(
                host,
                "unreachable",
                f"the host cannot be reached: {_first_line(stack.get('msg'))}",
                f"ssh to {host}; if it is dead, take it out of rotation and add -e rollback_exclude={host}",
            )
        ]
    if stack.get("failed"):
        return [_failed_reading(host, stack)]
    return [refusal(host, r["code"], r["message"], r["next"]) for r in stack.get("refusals") or ()]


def _failed_reading(host: str, stack: Mapping[str, Any]) -> dict[str, str]:
    """Return the refusal for a host on which the reading itself failed: a privilege, or Python, is missing."""
    said = " ".join(str(stack.get(key) or "") for key in ("msg", "module_stderr", "module_stdout"))
    if re.search(r"sudo|become|password is required|privilege", said, re.IGNORECASE):
        return refusal(
            host,
            "become_denied",
            f"root rights cannot be had there: {_first_line(stack.get('msg'))}",
            "add --ask-become-pass, or allow the user sudo; a user of the docker group may set ansible_become=false",
        )
    return refusal(
        host,
        "reading_failed",
        f"the host was reached but not read: {_first_line(said)}",
        f"ansible -m ansible.builtin.ping {host}",
    )


def _fleet_refusals(stacks: Mapping[str, Any], options: Options) -> list[dict[str, str]]:
    found = []
    if options.missing:
        cut = ", ".join(options.missing)
        found.append(
            refusal(
                "fleet",
                "limited",
                f"the run leaves out {cut}: a part of the fleet on another release is "
                "what a rollback must not end with",
                "run it without --limit; for a dead host use -e rollback_exclude=" + ",".join(options.missing),
            )
        )
    for host in options.unread:
        found.append(
            refusal(
                host,
                "variables",
                "a task failed on it before there was a plan, as said above: mostly its variables cannot be used",
                f"mend them, and look: ansible-inventory --host {host}",
            )
        )
    named = {name for names in options.excluding.values() for name in names}
    for host in stacks:
        if host in named:
            found.append(
                refusal(
                    host,
                    "exclude_unseen",
                    "the inventory sets rollback_exclude, where it does not keep the host out of the run",
                    f"take it out of the inventory, and give it to the run: -e rollback_exclude={host}",
                )
            )
    for host, doubt in options.excluded.items():
        if doubt and host not in stacks:
            found.append(
                refusal(
                    host,
                    "exclude_serving",
                    f"it is excluded, but {doubt}",
                    f"take {host} out of the load balancer; when nothing can confirm that, say so with "
                    f"-e rollback_drained={host}",
                )
            )
    return found


def _target(good: Mapping[str, Mapping[str, Any]], options: Options, refusals: list[dict[str, str]]) -> str:
    """Return the one release every host resolved, or '' with the refusal added."""
    if not options.release:
        refusals.append(
            refusal("fleet", "release_missing", "no release was named", "choose one below: -e release=<release>")
        )
        return ""
    pinned = _pinned(good, options.run_id)
    if pinned and options.release not in ("previous", pinned):
        refusals.append(
            refusal(
                "fleet",
                "pinned",
                f"the run that is taken up again goes to {pinned}, not to {options.release}",
                f"-e release={pinned}",
            )
        )
    if options.release != "previous":
        if is_release_name(options.release):
            return options.release
        refusals.append(
            refusal(
                "fleet",
                "tag_malformed",
                f"{options.release!r} cannot be a release: git and registry tags are letters, "
                "digits, '.', '_' and '-', 128 at most",
                "ansible-playbook rollback_full.yml   (lists the releases)",
            )
        )
        return ""
    if pinned:
        # A host that lost its lock was read for what it calls previous by now.
        others = {host: target for host, stack in good.items() if (target := stack.get("target") or "") != pinned}
        refusals += [
            refusal(
                host,
                "pinned",
                f"the run that is taken up again goes to {pinned}, and 'previous' is {target or 'nothing'} here by now",
                f"-e release={pinned}",
            )
            for host, target in others.items()
        ]
        return pinned
    targets = {host: stack.get("target") or "" for host, stack in good.items()}
    known = sorted(set(targets.values()) - {""})
    if len(known) > 1:
        table = ", ".join(f"{host}: {target or 'none'}" for host, target in targets.items())
        refusals.append(
            refusal(
                "fleet",
                "previous_disagrees",
                f"the hosts do not agree on what 'previous' is ({table})",
                "name it: -e release=<release>",
            )
        )
        return ""
    return known[0] if known else ""


def _pinned(good: Mapping[str, Mapping[str, Any]], run_id: str) -> str:
    """Return the target of a run that holds its lock already on some host, '' for a new run."""
    return next(filter(None, (_lock.pinned(stack.get("lock") or {}, run_id) for stack in good.values())), "")


def _target_refusals(good: Mapping[str, Mapping[str, Any]], release: str, options: Options) -> list[dict[str, str]]:
    found = []
    if "database" in options.parts and len(options.parts) > 1:
        commits = {host: stack["git"].get("target_commit") or "" for host, stack in good.items()}
        newest = Counter(commit for commit in commits.values() if commit).most_common(1)
        for host, commit in commits.items():
            if any(r["code"].startswith(("git_", "tag_", "project_")) for r in good[host].get("refusals") or ()):
                continue
            if not commit and not good[host]["git"].get("target_on_remote"):
                found.append(
                    refusal(
                        host,
                        "tag_unknown",
                        f"the checkout has no tag {release}" + (", other hosts have it" if newest else ""),
                        f"git -C <project> fetch --tags on {host}; or choose another release",
                    )
                )
            elif newest and commit and commit != newest[0][0]:
                found.append(
                    refusal(
                        host,
                        "tag_moved",
                        f"the tag {release} is commit {commit[:12]} there, {newest[0][0][:12]} on other hosts",
                        f"git -C <project> fetch --tags --force on {host}",
                    )
                )
    digests: dict[str, Counter[str]] = {}
    for stack in good.values():
        for name, service in stack["services"].items():
            if service.get("target_digest"):
                digests.setdefault(name, Counter())[service["target_digest"]] += 1
    for name, seen in digests.items():
        # Images built on each host have a digest of their own there.
        if len(seen) > 1 and options.image_source == "registry":
            found.append(
                refusal(
                    "fleet",
                    "digest_disagrees",
                    f"{release} of {name} is not the same image on every host: {', '.join(seen)}",
                    "compare them with: docker image inspect --format '{{.RepoDigests}}' <image>",
                )
            )
    return found


def _switch_refusals(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
    """Refuse to start a second container where there cannot be one."""
    if options.switch != "start_first":
        return []
    found = []
    for host, stack in good.items():
        for part, name in options.services.items():
            service = stack["services"].get(name)
            if service is None or part not in options.parts or part not in options.components[host]:
                continue
            reason = _single(service, part, options)
            if reason:
                found.append(
                    refusal(host, reason[0], f"rollback_switch is start_first, but {reason[1].format(name)}", reason[2])
                )
    return found


def _single(service: Mapping[str, Any], part: str, options: Options) -> tuple[str, str, str] | None:
    """Return why no second container of a service can run: code, message with a place for its name, next."""
    defined = service.get("definition") or {}
    stop_first = "-e rollback_switch=stop_first"
    if part == "frontend" and options.frontend_source == "artifact":
        return (
            "start_first_artifact",
            "kept builds of {} are switched by one link, which the old container follows as well",
            stop_first,
        )
    if defined.get("host_network"):
        return (
            "start_first_port",
            "{} uses the host's network, and two containers cannot bind one port",
            f"put it on a network of the project behind a proxy; or {stop_first}",
        )
    if defined.get("published"):
        return (
            "start_first_port",
            f"{{}} publishes port {', '.join(defined['published'])} of the host, "
            "and two containers cannot bind one port",
            f"publish the port of a proxy instead, see docs/switch.md; or {stop_first}",
        )
    if defined.get("container_name"):
        return (
            "start_first_name",
            f"{{}} has container_name: {defined['container_name']}, and two containers cannot have one name",
            f"remove container_name from the compose file; or {stop_first}",
        )
    return None


def _overlap(service: Mapping[str, Any], part: str, options: Options) -> bool:
    """Return whether the frontend's container can be made beside the old one, with the old one's assets in it."""
    defined = service.get("definition") or {}
    return (
        part == "frontend"
        and options.asset_overlap > 0
        and options.frontend_source == "image"
        and not defined.get("container_name")
        and not defined.get("read_only")
    )


def _plan_database(
    good: Mapping[str, Mapping[str, Any]],
    database: Mapping[str, Any] | None,
    release: str,
    options: Options,
    refusals: list[dict[str, str]],
) -> dict[str, Any]:
    """Return what happens to each migration; refusals are added to the list."""
    plan: dict[str, Any] = {
        "reachable": True,
        "needed": database is not None,
        "down": [],
        "keep": [],
        "price": [],
        # What is dumped before data is lost: {path, bytes, client_version}, None where nothing is.
        "backup": None,
        "warnings": [],
        "before": [],
        "rolled_back": [],
        "target_migrations": None,
    }
    if database is None:
        return plan
    target_known = target_migrations(good, release)
    plan["target_migrations"] = target_known
    if database.get("error"):
        _unreachable_database(good, database, release, options, target_known, plan, refusals)
        return plan
    info = database["info"]
    plan["before"] = list(info["applied"])
    plan["rolled_back"] = [row["name"] for row in info["migrations"] if row["state"] == "rolled_back"]
    if not release:
        return plan
    if not info.get("initialized", True):
        refusals.append(
            refusal(
                options.runner,
                "history_missing",
                "the database has no _prisma_migrations table where Prisma looks for it",
                "check DATABASE_URL and its ?schema=, or set rollback_migrations_path: ''",
            )
        )
        return plan
    if target_known is None:
        refusals.append(
            refusal(
                options.runner,
                "target_unknown",
                f"nobody knows which migrations {release} contains: its tag is on no host and no ledger lists it",
                "git -C <project> fetch --tags on any host",
            )
        )
        return plan
    rows = {migration["name"]: migration for migration in info["migrations"]}
    pending = [name for name in target_known if rows.get(name, {}).get("state") not in ("applied", "failed")]
    if pending:
        refusals.append(
            refusal(
                options.runner,
                "forward",
                f"{release} needs migrations that are not applied ({', '.join(pending)}): going there is a deploy, "
                "not a rollback",
                "deploy it with your pipeline",
            )
        )
    choices = choose([rows[name] for name in info["unknown_to_target"]], options.policy)
    down = [choice for choice in choices if choice.action == "down"]
    if options.failed == "mark_only":
        # No script runs, so nothing is lost.
        down = [replace(choice, price=()) if _failed(rows[choice.name]) else choice for choice in down]
    plan["down"] = [choice.as_dict() for choice in down]
    plan["keep"] = [choice.as_dict() for choice in choices if choice.action == "keep"]
    plan["price"] = [dict(entry, migration=choice.name) for choice in down for entry in choice.price]
    if "database" in options.parts:
        for choice in down:
            refusals += _migration_refusals(rows[choice.name], options)
        refusals += _consent(plan["price"], release, options)
        refusals += _backup(info.get("backup") or {}, plan, options)
    refusals += _boundary(good, down, release, options)
    others = sorted(set(options.writers) - {options.services["application"]})
    if down and others:
        refusals.append(
            refusal(
                "fleet",
                "writers_unsupported",
                f"a migration goes down, and writers other than the API ({', '.join(others)}) would be stopped and not "
                "started again: that is not supported",
                'stop them yourself, add -e \'{"rollback_writer_services": ["'
                + options.services["application"]
                + "\"]}', and start them with the target",
            )
        )
    if not info.get("parser") and choices:
        plan["warnings"].append(
            f"pglast is not on {options.runner}: no migration counts as additive, and what would be lost is not counted"
        )
    return plan


def _backup(ready: Mapping[str, Any], plan: dict[str, Any], options: Options) -> list[dict[str, str]]:
    """Plan the backup where data is lost; everything that would keep it from being made is a refusal."""
    if not plan["price"] or not options.backup:
        return []
    plan["backup"] = {key: ready.get(key) for key in ("path", "bytes", "client_version")}
    plan["warnings"] += ready.get("warnings") or ()
    return [
        refusal(options.runner, problem["code"], problem["message"], problem["next"])
        for problem in ready.get("problems") or ()
    ]


def _failed(row: Mapping[str, Any]) -> bool:
    return row.get("state") == "failed"


def _migration_refusals(row: Mapping[str, Any], options: Options) -> list[dict[str, str]]:
    """Everything that keeps one migration from going down."""
    if _failed(row) and options.failed == "mark_only":
        return []
    found = [
        refusal(options.runner, problem["code"], problem["message"], problem["next"])
        for problem in row.get("problems") or ()
        if problem["code"] != "failed" or options.failed == "fail"
    ]
    if row.get("outside_transaction") and options.transaction != "each":
        found.append(
            refusal(
                options.runner,
                "transaction",
                f"the down.sql of {row['name']} starts with statements that run outside a transaction, so the database "
                "cannot go down in one",
                "add -e rollback_transaction=each, which commits each migration by itself",
            )
        )
    return found


def _unreachable_database(
    good: Mapping[str, Mapping[str, Any]],
    database: Mapping[str, Any],
    release: str,
    options: Options,
    target_known: Sequence[str] | None,
    plan: dict[str, Any],
    refusals: list[dict[str, str]],
) -> None:
    """Stop, unless the ledger says that both releases share their last migration: then the database is not touched.

    The release that runs is the one of the containers: a deploy may have gone unrecorded. A database of which something
    else is wrong, a missing driver or a folder that may not be read, always stops it.
    """
    plan["reachable"] = False
    code = str(database.get("code") or "database_unreadable")
    running = set()
    for stack in good.values():
        before = _before(stack) if code == "database_unreachable" else ""
        entry = next((r for r in stack["ledger"]["releases"] if r["release"] == before), None)
        running.add(tuple(entry["migrations"]) if entry and entry.get("migrations") is not None else None)
    same = (
        len(running) == 1
        and None not in running
        and target_known is not None
        and set(next(iter(running))) == set(target_known)
    )
    if release and same and "application" in options.parts:
        plan["warnings"].append(
            f"the database cannot be read ({_first_line(database['error'])}); {release} and the running release share "
            "their last migration, so it is not touched"
        )
        return
    refusals.append(
        refusal(
            options.runner or "fleet",
            code,
            _first_line(database["error"]),
            str(
                database.get("next")
                or "check that the database runs and that DATABASE_URL in .env is right; "
                "a rollback does not cure a database that is down"
            ),
        )
    )


def _consent(price: Sequence[Mapping[str, Any]], release: str, options: Options) -> list[dict[str, str]]:
    if not price or options.consent == release:
        return []
    lost = "; ".join(loss_text(entry) for entry in price)
    said = f", and the consent given is for {options.consent!r}" if options.consent else ""
    return [
        refusal(
            "database",
            "data_loss",
            f"going to {release} loses data: {lost}{said}",
            f"if that may be lost: -e rollback_confirm_data_loss={release}",
        )
    ]


def loss_text(entry: Mapping[str, Any]) -> str:
    """Return one loss as an operator reads it: ``3 rows of public.reactions (drop_table)``."""
    count = entry.get("count")
    amount = "an unknown number of rows" if count is None else f"{count} row{'' if count == 1 else 's'}"
    return f"{amount} of {entry.get('object') or 'unknown'} ({str(entry.get('kind') or 'unknown').replace('_', ' ')})"


def _boundary(
    good: Mapping[str, Mapping[str, Any]], down: Sequence[Choice], release: str, options: Options
) -> list[dict[str, str]]:
    """Refuse a part rollback that would leave application and schema of different releases."""
    if not down or set(options.parts) >= {"application", "database"}:
        return []
    full = f"ansible-playbook rollback_full.yml -e release={release}"
    if "database" not in options.parts:
        return [
            refusal(
                "fleet",
                "boundary",
                f"{release} needs the schema without {', '.join(c.name for c in down)}: {down[-1].reason}",
                full,
            )
        ]
    name = options.services["application"]
    ahead = [
        host
        for host, stack in good.items()
        if "application" in options.components[host] and _runs_other(stack["services"].get(name))
    ]
    if ahead:
        return [
            refusal(
                "fleet",
                "boundary",
                f"{name} on {', '.join(ahead)} does not run {release} and needs the migrations that would go down",
                full,
            )
        ]
    return []


def _runs_other(service: Mapping[str, Any] | None) -> bool:
    """Return whether a service runs, or would by its next start, another release than the target."""
    if not service:
        return False
    if service.get("running"):
        return not is_target(service)
    return bool(service.get("configured_image")) and service["configured_image"] != service.get("target_image")


def is_target(service: Mapping[str, Any]) -> bool:
    """Return whether the running container's image is the target's, as the reading itself knows it."""
    running = service.get("running") or {}
    return runs_image(running, service.get("target_digest") or "", service.get("target_image") or "")


def target_migrations(good: Mapping[str, Mapping[str, Any]], release: str) -> list[str] | None:
    """Return the names the target contains: from a checkout that has its commit, else from a ledger, else None."""
    for stack in good.values():
        if stack["git"].get("target_migrations") is not None:
            return list(stack["git"]["target_migrations"])
    for stack in good.values():
        for entry in stack["ledger"]["releases"]:
            if entry["release"] == release and entry.get("migrations") is not None:
                return list(entry["migrations"])
    return None


def _plan_host(
    host: str, stack: Mapping[str, Any], release: str, options: Options, database_plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what changes on one host. ``change`` is false when the target already runs there, as far as asked."""
    git = stack["git"]
    services: dict[str, Any] = {}
    for part, name in options.services.items():
        service = stack["services"].get(name)
        if service is None or part not in options.components[host]:
            continue
        running = service.get("running") or {}
        wanted = part in options.parts
        artifact = service.get("artifact")
        if artifact is not None:
            # A container goes on serving the build that it was started with, whatever the link names by now.
            linked = bool(service.get("build_id")) and service.get("build_id") == artifact["target_build_id"]
            there = running.get("state") == "running" and linked and artifact["target_served"]
        else:
            there = (
                running.get("state") == "running"
                and is_target(service)
                # a start_first that was killed leaves the old container beside the new one
                and all(is_target({**service, "running": other}) for other in service.get("others") or ())
                and service.get("configured_image")
                in (service.get("target_image"), f"{service.get('target_image')}@{service.get('target_digest')}")
            )
        services[name] = {
            "part": part,
            "image": service.get("target_image") or "",
            "digest": service.get("target_digest") or "",
            "build_id": artifact["target_build_id"] if artifact is not None else None,
            "local": artifact is not None or bool(service.get("target_local")),
            "before": release_of(service) if running else "not running",
            "before_image_id": running.get("image_id") or "",
            "before_build_id": service.get("build_id") or "",
            "before_state": running.get("state") or "absent",
            "before_health": (service.get("health") or {}).get("status"),
            "state": running.get("state") or "absent",
            "restarts": running.get("restarts") or 0,
            "health": (service.get("health") or {}).get("status"),
            "change": bool(release) and wanted and not there,
            "overlap": _overlap(service, part, options),
        }
    full = set(PARTS) <= set(options.parts)
    checkout = full and bool(release) and git.get("head") != git.get("target_commit")
    writers = bool(database_plan["down"]) and "application" in options.components[host]
    # Held by an earlier run, or left drained when that was killed: this one takes it back into rotation.
    drained = bool(release) and host in options.drained and bool(services)
    return {
        "components": list(options.components[host]),
        "before": _before(stack),
        "project_dir": options.project_dirs.get(host, ""),
        "services": services,
        "commit": git.get("target_commit") or "",
        "fetch": checkout and not git.get("target_local"),
        "checkout": checkout,
        "pins": list(git.get("pins") or ()),
        "stop_writers": writers,
        "drained": drained,
        # before the first change of the run, as the services' keys of that name
        "before_drained": drained,
        # In no backend any more: nobody reaches it.
        "out": drained and options.drained[host],
        "env_differs": list(stack.get("env", {}).get("differs") or ()),
        "smoke": bool(git.get("smoke")),
        "change": checkout or writers or drained or any(service["change"] for service in services.values()),
    }


def _before(stack: Mapping[str, Any]) -> str:
    """Return the release a host is on, as its containers say, else its checkout, else its ledger."""
    tags = [release for release in map(release_of, filter(None, stack["services"].values())) if release]
    return (tags or list(stack["git"].get("head_tags") or ()) or [stack["ledger"].get("current") or "unknown"])[0]


def _warnings(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[str]:
    found = []
    for host, doubt in options.excluded.items():
        if not doubt:
            found.append(f"{host} is excluded: it stays on the release it has, out of rotation")
    for host, stack in good.items():
        if options.asset_overlap > 0 and options.frontend_source == "image" and "frontend" in options.parts:
            name = options.services.get("frontend", "")
            defined = (stack["services"].get(name) or {}).get("definition") or {}
            for key in ("container_name", "read_only"):
                if defined.get(key):
                    found.append(
                        f"{host}: {name} has {key}, so pages of the release before lose their assets with the switch"
                    )
        found += [f"{host}: {line}" for line in _called_directly(stack, host, options)]
    clocks = [stack["clock"] for stack in good.values() if stack.get("clock")]
    if clocks and max(clocks) - min(clocks) > 300:
        found.append(f"the hosts' clocks differ by {max(clocks) - min(clocks):.0f} s")
    for host, stack in good.items():
        differs = stack.get("env", {}).get("differs")
        if differs:
            found.append(f"{host}: .env is not what it was with the target; it differs in {', '.join(differs)}")
    return found


def _called_directly(stack: Mapping[str, Any], host: str, options: Options) -> list[str]:
    """Return who calls a service past the proxy, which can drain only what goes through it."""
    if options.switch != "start_first":
        return []
    found = []
    for part, name in options.services.items():
        defined = (stack["services"].get(name) or {}).get("definition") or {}
        if defined.get("callers") and part in options.parts and part in options.components[host]:
            found.append(
                f"{', '.join(defined['callers'])} calls {name} by its name, past the proxy, so a request between them "
                "may be lost in the switch; let it call the proxy, see docs/switch.md"
            )
    return found


def _unique(refusals: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    seen: dict[tuple[str, str, str], dict[str, str]] = {}
    for entry in refusals:
        seen.setdefault((entry["host"], entry["code"], entry["message"]), entry)
    return list(seen.values())


def candidates(good: Mapping[str, Mapping[str, Any]], database: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the releases an operator can name, newest first: age, verdict, what going there undoes and loses."""
    info = (database or {}).get("info") or {}
    rows = {migration["name"]: migration for migration in info.get("migrations") or ()}
    found: dict[str, dict[str, Any]] = {}
    for host, stack in good.items():
        for entry in stack["ledger"]["releases"]:
            row = found.setdefault(
                entry["release"],
                {
                    "release": entry["release"],
                    "at": entry["at"],
                    "good": [],
                    "bad": [],
                    "hosts": [],
                    "current": [],
                    "migrations": entry.get("migrations"),
                },
            )
            row["hosts"].append(host)
            if entry["verdict"] in ("good", "bad"):
                row[entry["verdict"]].append(host)
            if stack["ledger"]["current"] == entry["release"]:
                row["current"].append(host)
            row["at"] = max(row["at"], entry["at"])
    for row in found.values():
        row["undo"], row["loss"] = None, []
        if row["migrations"] is not None and rows:
            unknown = [
                m
                for m in reversed(info["migrations"])
                if m["state"] in ("applied", "failed") and m["name"] not in row["migrations"]
            ]
            choices = choose(unknown, "auto")
            row["undo"] = [choice.name for choice in choices if choice.action == "down"]
            row["loss"] = [loss_text(entry) for choice in choices for entry in choice.price]
    tags = [tag for stack in good.values() for tag in stack["git"].get("tags") or ()]
    for tag in dict.fromkeys(tags):
        found.setdefault(
            tag,
            {
                "release": tag,
                "at": "",
                "good": [],
                "bad": [],
                "hosts": [],
                "current": [],
                "migrations": None,
                "undo": None,
                "loss": [],
            },
        )
    return sorted(found.values(), key=lambda row: (row["at"], row["release"]), reverse=True)
