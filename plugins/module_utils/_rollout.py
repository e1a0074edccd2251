# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""In which batches the fleet is switched, and what becomes of it when a host fails.

Everything here is pure: a plan and what each host has come to so far go in, the next batch or the end comes out.
"""

from __future__ import annotations

import math
import re
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils._stack import release_of, runs_image

CANARY = "canary"
DEFAULT_BATCHES = (CANARY, "50%", "100%")

# What a host has come to. A host that needs no change and is healthy was done before the first batch.
PENDING, DONE, FAILED = "pending", "done", "failed"
# Whose fault a failure is: the host's own, the target's, or the load balancer's, which left the host untouched.
HOST, TARGET, ROTATION = "host", "target", "rotation"
# How a rollout ends: every host was tried, finished hosts go back, the rest is taken out of rotation, or it stays.
COMPLETE, RESTORE, DRAIN, STOP = "complete", "restore", "drain", "stop"

# Less free space than this, and what failed on a host is the host's own fault. MB.
FULL_DISK_MB = 100

_SIZE = re.compile(r"([1-9][0-9]*)(%?)")


class RolloutError(Exception):
    """A setting that cannot be; the text is for the operator."""


def batch_sizes(batches: Sequence[str]) -> list[str]:
    """Return rollback_batches as texts; raise RolloutError for one that is no size."""
    sizes = [str(size).strip() for size in batches]
    for size in sizes:
        amount = _SIZE.fullmatch(size)
        if size != CANARY and not (amount and (not amount.group(2) or int(amount.group(1)) <= 100)):
            raise RolloutError(
                f"rollback_batches has {size!r}: a batch is 'canary', a number of hosts of each kind, or '50%' of them"
            )
    return sizes or list(DEFAULT_BATCHES)


def at_least(asked: str, total: int) -> int:
    """Return how many hosts rollback_min_serving asks for, of ``total``; raise RolloutError for what is no number."""
    amount = re.fullmatch(r"(\d+)(%?)", str(asked).strip())
    if not amount:
        raise RolloutError(f"rollback_min_serving is a number of hosts or a part of them like '50%', not {asked!r}")
    number = int(amount.group(1))
    return math.ceil(total * min(number, 100) / 100) if amount.group(2) else min(number, total)


def kind(components: Sequence[str]) -> str:
    """Return the kind of a host: the parts that it carries."""
    return "+".join(sorted(components))


def start(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {host: progress} before the first batch."""
    return {host: begun(entry) for host, entry in plan["hosts"].items()}


def begun(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the progress of a host before the first batch, from its entry of the plan.

    Progress is ``{status, fault, traffic, touched, drained}``: ``touched`` once its containers may differ from before,
    ``traffic`` once users may have reached the target on it, ``drained`` while it is out of rotation.
    """
    return {
        "status": PENDING if entry["change"] else DONE,
        "fault": "",
        "traffic": not entry["change"] or bool(entry.get("traffic")),
        "touched": bool(entry.get("touched")),
        "drained": bool(entry.get("out")),
    }


def next_step(
    plan: Mapping[str, Any], marks: Mapping[str, Mapping[str, Any]], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the next batch, ``{number, index, name, hosts, end, why}``; ``end`` is '' while there is one.

    ``marks`` are the progresses of hosts that were tried already, ``before`` the step that came before this one.
    """
    progress = {**start(plan), **marks}
    for host in before["hosts"] if before else ():
        if progress[host]["status"] == PENDING:
            # It was tried, and nobody could say what came of it: offered again, it would be so forever.
            progress[host] = {**progress[host], "status": FAILED, "fault": HOST, "touched": True, "traffic": True}
    number, index = (before["number"] + 1, before["index"]) if before else (1, 0)
    step = {"number": number, "index": index, "name": "", "hosts": [], "end": "", "why": ""}
    end, why = judge(plan, progress)
    if end:
        return {**step, "end": end, "why": why}
    if not _with_status(progress, PENDING):
        left = [host for host in _with_status(progress, FAILED) if not progress[host]["touched"]]
        if left:
            return {**step, "end": DRAIN, "why": f"{', '.join(left)} cannot be taken out of rotation"}
        return {**step, "end": COMPLETE}
    sizes = plan["rollout"]["batches"]
    if before and before["name"] != CANARY:
        index += 1
    while True:
        size = sizes[min(index, len(sizes) - 1)]
        hosts = _canaries(plan, progress) if size == CANARY else _portion(plan, progress, size)
        if hosts:
            return {**step, "index": index, "name": size, "hosts": hosts}
        # The kinds are proven. A list that ends with the canary goes on with everything.
        index += 1
        if index >= len(sizes) and sizes[-1] == CANARY:
            return {**step, "index": index, "name": "100%", "hosts": _portion(plan, progress, "100%")}


def forecast(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the batches as they follow each other when no host fails."""
    progress = start(plan)
    steps = []
    step = next_step(plan, progress)
    while step["hosts"]:
        steps.append(step)
        for host in step["hosts"]:
            progress[host] = {**progress[host], "status": DONE, "touched": True}
        step = next_step(plan, progress, step)
    return steps


def judge(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Return how the rollout ends now and why, ('', '') while it goes on."""
    failed = _with_status(progress, FAILED)
    if not failed:
        return "", ""
    rollout = plan["rollout"]
    wish = rollout["on_failure"]
    unproven = [
        host
        for host in failed
        if progress[host]["fault"] == TARGET and not _proven(plan, progress, kind(plan["hosts"][host]["components"]))
    ]
    if unproven:
        return _bad_target(plan, progress, f"{plan['release']} does not run well on {', '.join(unproven)}")
    blocked = [host for host in failed if progress[host]["fault"] == ROTATION]
    if blocked and not [host for host in _with_status(progress, DONE) if progress[host]["touched"]]:
        why = f"{', '.join(blocked)} cannot be taken out of rotation"
        # With the writers stopped, a mere stop would leave nothing that serves.
        return (STOP, why) if not plan["database"]["undone"] or not can_restore(plan, progress) else (RESTORE, why)
    if wish == "restore":
        return _bad_target(plan, progress, f"{', '.join(failed)} failed, and rollback_on_failure is restore")
    too_many = len(failed) > rollout["max_failed"]
    short = _short_of(plan, progress)
    if not too_many and not short:
        return "", ""
    why = (
        f"{len(failed)} hosts failed ({', '.join(failed)}), more than rollback_max_failed ({rollout['max_failed']})"
        if too_many
        else short
    )
    return _breach(plan, progress, why)


def _bad_target(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], why: str) -> tuple[str, str]:
    if plan["rollout"]["on_failure"] == "hold":
        return STOP, why
    if can_restore(plan, progress):
        return RESTORE, why
    stranded = plan["database"]["stranded"]
    because = (
        f"it needs {', '.join(stranded)}, which an earlier run took down"
        if stranded
        else f"{plan['release']} already had traffic after data was lost"
    )
    return STOP, f"{why}; the release from before is not put back: {because}"


def _breach(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], why: str) -> tuple[str, str]:
    """Nobody is left on the release that is being left: what keeps one release serving decides how."""
    back = plan["rollout"]["on_failure"] != "hold" and can_restore(plan, progress)
    if serves_enough(plan, progress):
        return DRAIN, why
    if back and not (_began_mixed(plan) and _serves_all(plan, progress)):
        return RESTORE, why
    # Without a host that runs the target for each part, holding all others would leave nothing that serves.
    return (DRAIN, why) if _serves_all(plan, progress) else (STOP, why)


def can_restore(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether finished hosts may go back: to a schema that fits, and after data was lost only before traffic."""
    if plan["database"]["stranded"]:
        return False
    if not plan["database"]["undone"] or not plan["database"]["lost"]:
        return True
    return not any(mark["traffic"] and mark["touched"] for mark in progress.values())


def _began_mixed(plan: Mapping[str, Any]) -> bool:
    """Return whether some hosts ran the target before the run: putting the others back would not make one release."""
    return any(
        not entry["change"] and any(service["part"] in plan["parts"] for service in entry["services"].values())
        for entry in plan["hosts"].values()
    )


def serves_enough(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the hosts that run the target are as many as have to serve."""
    return all(
        _done_with(plan, progress, component) >= max(wanted, 1)
        for component, wanted in plan["rollout"]["min_serving"].items()
    )


def _serves_all(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the target serves every part somewhere."""
    return all(_done_with(plan, progress, component) for component in plan["rollout"]["min_serving"])


def _done_with(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], component: str) -> int:
    return len([host for host in _with_status(progress, DONE) if component in plan["hosts"][host]["components"]])


def _short_of(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> str:
    """Say where too few hosts would be left to serve, '' where enough are."""
    for component, wanted in plan["rollout"]["min_serving"].items():
        left = [
            host
            for host, mark in progress.items()
            if mark["status"] != FAILED and component in plan["hosts"][host]["components"]
        ]
        # One host of each part is the least, whatever is set: with none, nothing would serve.
        if len(left) < max(wanted, 1):
            return f"{len(left)} hosts are left for the {component}, fewer than rollback_min_serving ({wanted})"
    return ""


def _with_status(progress: Mapping[str, Mapping[str, Any]], status: str) -> list[str]:
    return [host for host, mark in progress.items() if mark["status"] == status]


def _proven(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], wanted: str) -> bool:
    """Return whether the target serves well on a host of this kind, or on hosts that together carry its parts."""
    parts = set(wanted.split("+"))
    carried: set[str] = set()
    for host, mark in progress.items():
        entry = plan["hosts"][host]
        done = mark["status"] == DONE and (mark["touched"] or _healthy(entry))
        if done or (plan["online"] and _serves_already(entry, mark)):
            carried |= set(entry["components"])
    return parts <= carried


def _serves_already(entry: Mapping[str, Any], mark: Mapping[str, Any]) -> bool:
    """Whether a host that is yet to be switched serves the target: an earlier try of the run had come so far."""
    changes = any(service["change"] for service in entry["services"].values())
    return mark["status"] == PENDING and not mark["drained"] and not changes and _healthy(entry)


def _healthy(entry: Mapping[str, Any]) -> bool:
    return all(service["health"] in (200, None) for service in entry["services"].values())


def _kinds(plan: Mapping[str, Any], hosts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for host in hosts:
        found.setdefault(kind(plan["hosts"][host]["components"]), []).append(host)
    return found


def _canaries(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]]) -> list[str]:
    pending = _kinds(plan, _with_status(progress, PENDING))
    done = _kinds(plan, [host for host in _with_status(progress, DONE) if progress[host]["touched"]])
    chosen: list[str] = []
    for name, hosts in pending.items():
        if name not in done and not (plan["online"] and _is_last(plan, progress, hosts[0], chosen)):
            chosen.append(hosts[0])
    return chosen


def _is_last(
    plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], host: str, chosen: Sequence[str]
) -> bool:
    """Whether only this host is left to serve one of its parts while the chosen ones are out of rotation."""
    for part in plan["hosts"][host]["components"]:
        others = {
            other
            for other, entry in plan["hosts"].items()
            if other != host
            and part in entry["components"]
            and progress[other]["status"] != FAILED
            and not progress[other]["drained"]
        }
        if others and others <= set(chosen):
            return True
    return False


def _portion(plan: Mapping[str, Any], progress: Mapping[str, Mapping[str, Any]], size: str) -> list[str]:
    """Return the next pending hosts, so many of each kind."""
    changing = _kinds(plan, [host for host, entry in plan["hosts"].items() if entry["change"]])
    chosen: list[str] = []
    for name, hosts in _kinds(plan, _with_status(progress, PENDING)).items():
        amount = int(size.rstrip("%"))
        if size.endswith("%"):
            amount = max(1, len(changing[name]) * amount // 100)
        chosen += hosts[:amount]
    return chosen


def migrating_host(plan: Mapping[str, Any], returned: Sequence[str], tried: Sequence[str] = ()) -> str:
    """Return the host that takes the database forward again: an API host that went back and has not tried, or ''."""
    return next(
        (host for host in returned if host not in tried and plan["hosts"].get(host, {}).get("stop_writers")), ""
    )


def writers_may_start(plan: Mapping[str, Any], host: str, reading: Mapping[str, Any]) -> bool:
    """Return whether a host's writers of the release from before start again where this try took nothing down.

    Not on a database that an earlier try took down in part, nor on a host that an earlier run holds.
    """
    entry, database = plan["hosts"][host], plan["database"]
    if not entry["stop_writers"] or set(database["undone"]) - {choice["name"] for choice in database["down"]}:
        return False
    writers = [service for service in entry["services"].values() if service["part"] == "application"]
    if any(service["before_state"] != "absent" for service in writers):
        return True
    # No writer ran when this run began: the checkout's migrations tell whether an earlier one went further.
    known = (reading.get("git") or {}).get("head_migrations") or ()
    return not entry["out"] and not set(known) & set(database["rolled_back"])


def lost_dumps(plan: Mapping[str, Any], backups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the folders, in the order of the plan, in which its run really dumped what was to be lost.

    ``backups`` are database_backup_info's. A try that was killed early has named its dump, and not made it.
    """
    made = {backup["path"] for backup in backups if any(dump["kind"] == "lost" for dump in backup["dumps"])}
    return [path for path in plan["database"]["dumps"] if path in made]


def fault_of(plan: Mapping[str, Any], host: str, reading: Mapping[str, Any], gated: bool = False) -> str:
    """Return whose fault it is that a host did not get to the target, from a reading of it after the failure.

    The target's is what ran from the target's image and does not run well; everything else is the host's. ``gated``:
    the gate found it unhealthy, whatever it answers here, or its new container was removed for being so.
    """
    services = reading.get("services")
    if reading.get("unreachable") or reading.get("failed") or not services:
        return HOST
    engine = reading.get("engine") or {}
    if not engine.get("version") or (engine.get("free_mb") is not None and engine["free_mb"] < FULL_DISK_MB):
        return HOST
    if gated:
        return TARGET
    for name, planned in plan["hosts"][host]["services"].items():
        running = (services.get(name) or {}).get("running")
        if not planned["change"] and not plan["hosts"][host]["stop_writers"]:
            continue
        if not running or not runs_target(planned, services[name]):
            continue
        if running.get("state") == "created":
            # It never ran: the engine could not start it, for a port that is taken, say.
            return HOST
        sick = running.get("health") == "unhealthy" or not answers(services[name])
        # With the database down neither release answers well, and that is no fault of the target.
        excused = planned["part"] == "application" and not plan["database"]["reachable"]
        if running.get("state") != "running" or (sick and not excused):
            return TARGET
    return HOST


def answers(service: Mapping[str, Any]) -> bool:
    """Return whether a service answers as it should, as far as it is asked."""
    return service.get("health") is None or service["health"].get("status") == 200


def runs_target(planned: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    """Return whether a service's container is the plan's target, by digest; by build id, by name where that is all."""
    running = service.get("running") or {}
    if planned["build_id"] is not None:
        return bool(planned["build_id"]) and service.get("build_id") == planned["build_id"]
    return runs_image(running, planned["digest"], planned["image"])


def runs_before(planned: Mapping[str, Any], service: Mapping[str, Any], before: str) -> bool:
    """Return whether a service's container is of the image, or the kept build, that ran before.

    ``before`` is the release that the host was on: all that is known of a service that had no container.
    """
    running = service.get("running") or {}
    if planned["before_state"] == "absent":
        return bool(before) and release_of(service) == before
    if planned["build_id"] is not None:
        return bool(planned["before_build_id"]) and service.get("build_id") == planned["before_build_id"]
    return bool(planned["before_image_id"]) and running.get("image_id") == planned["before_image_id"]


def restore_doubts(plan: Mapping[str, Any], host: str, reading: Mapping[str, Any]) -> list[str]:
    """Return what a reading of a restored host lacks of how it was before the run; [] when all is back.

    A release that was unhealthy before is: what counts is that it runs, and answers as it did.
    """
    found = []
    entry = plan["hosts"][host]
    for name, planned in entry["services"].items():
        if planned["part"] not in plan["moves"]:
            continue
        service = (reading.get("services") or {}).get(name) or {}
        running = service.get("running")
        if planned["before_state"] == "absent":
            # Held by an earlier run: what it starts by now is the target.
            if running and runs_target(planned, service) and not runs_before(planned, service, entry["before"]):
                found.append(f"{name}: it has a container of {plan['release']}, and had none before")
        elif not running or not runs_before(planned, service, entry["before"]):
            found.append(f"{name}: its container is not of what ran before ({planned['before']})")
        elif planned["before_state"] == "running" and running.get("state") != "running":
            found.append(f"{name}: its container is {running.get('state')}")
        elif planned["before_health"] == 200 and (service.get("health") or {}).get("status") != 200:
            status = (service.get("health") or {}).get("status")
            found.append(f"{name}: it answers {status or 'nothing'}, and 200 before")
    return found
