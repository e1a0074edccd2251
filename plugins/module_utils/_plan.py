# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One plan for the fleet, made from one reading of every host.

Everything here is pure: readings in, plan out. A plan either carries refusals, every reason of every host at once,
or says what will change where and what that loses. Nothing is decided again after it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _rollout
from ansible_collections.connectin.rollback.plugins.module_utils._migration_policy import choose
from ansible_collections.connectin.rollback.plugins.module_utils._plan_database import loss_text, plan_database
from ansible_collections.connectin.rollback.plugins.module_utils._plan_earlier import earlier_tries, take_up
from ansible_collections.connectin.rollback.plugins.module_utils._plan_options import Options, refusal
from ansible_collections.connectin.rollback.plugins.module_utils._plan_refusals import (
    batch_refusals,
    fleet_refusals,
    frozen_refusals,
    host_refusals,
    lost,
    resolve_target,
    resume_refusals,
    switch_refusals,
    target_refusals,
)
from ansible_collections.connectin.rollback.plugins.module_utils._stack import (
    PARTS,
    is_target,
    release_before,
    release_of,
)


def make_plan(
    stacks: Mapping[str, Mapping[str, Any]], database: Mapping[str, Any] | None, options: Options
) -> dict[str, Any]:
    """Return the plan for readings ``stacks`` (host to the result of stack_info) and ``database``.

    ``database`` is ``{"error": "", "info": {...}}`` from prisma_migration_info, or None when no part needs it.
    """
    refusals = fleet_refusals(stacks, options)
    good: dict[str, Mapping[str, Any]] = {}
    for host, stack in stacks.items():
        reasons = host_refusals(host, stack)
        refusals += reasons
        if stack.get("services") is not None and not lost(stack):
            good[host] = stack
    release = resolve_target(good, options, refusals)
    refusals += frozen_refusals(good, options) + resume_refusals(good, options)
    if release:
        refusals += target_refusals(good, release, options)
    refusals += switch_refusals(good, options)
    database_plan = plan_database(good, database, release, options, refusals)
    # The same one for every run that is started at the same time: its lock decides between them.
    coordinator = min(good, default="")
    hosts = {host: _plan_host(host, stack, release, options, database_plan) for host, stack in good.items()}
    undo = bool(database_plan["down"])
    earlier = earlier_tries(good)
    take_up(hosts, database_plan, good, earlier)
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
        "again": {
            name: list(value) if isinstance(value, (list, tuple)) else str(value)
            for name, value in options.again.items()
            if value != DEFAULTS.get(name, "")
        },
        "candidates": [] if release else candidates(good, database),
    }
    plan["refusals"] += batch_refusals(plan)
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
    "rollback_image_source": "registry",
    "rollback_frontend_source": "image",
    "rollback_switch": "stop_first",
    "rollback_max_failed": 1,
    "rollback_min_serving": "50%",
    "rollback_batches": ["canary", "50%", "100%"],
    "rollback_asset_overlap": 3600,
}


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
            # The same, but of a run that is taken up again what it was before its first change.
            "before_release": release_of(service) if running else "not running",
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
        "before": release_before(stack),
        "project_dir": options.project_dirs.get(host, ""),
        "services": services,
        "commit": git.get("target_commit") or "",
        "fetch": checkout and not git.get("target_local"),
        "checkout": checkout,
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
                f"{name} is called by its name, past the proxy, from {', '.join(defined['callers'])}: a request "
                "between them may be lost in the switch; let it go through the proxy, see docs/switch.md"
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
