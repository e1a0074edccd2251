# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What came of a run: which release serves users now and where, and what to type for each host that needs something.

Exactly one release serves at the end of every run. Where the last reading does not show that, the end is unresolved.
"""

from __future__ import annotations

import json
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _rollout
from ansible_collections.connectin.rollback.plugins.module_utils._stack import PARTS, release_of

# The target serves everywhere; on all but hosts that are out of rotation; the release from before serves again;
# nothing was switched; nobody can say that one release serves.
REACHED, HELD, RESTORED, FAILED, UNRESOLVED = "reached", "held", "restored", "failed", "unresolved"

# What a host serves: the target, the release from before, parts that are the same in both, something else, nothing,
# or what nobody could read.
IS_TARGET, IS_BEFORE, IS_EITHER = "target", "before", "either"
IS_OTHER, IS_NOTHING, IS_UNKNOWN = "other", "nothing", "unknown"


def outcome(
    plan: Mapping[str, Any],
    failures: Mapping[str, Sequence[Mapping[str, str]]],
    now: Mapping[str, Mapping[str, Any]],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what came of the run.

    ``failures`` maps hosts, and "fleet", to ``{phase, message}``; ``now`` maps hosts to the last stack_info reading, {}
    when lost. ``run`` is ``{phases, rolled_back, backups, progress, step, forward, locks}``: phase marks, migrations
    that went down, dumps, {host: progress} and the last step of the rollout, whether the database went forward again,
    and what came of taking each host's lock, {host: result of rollback_lock}.
    """
    progress = {**_rollout.start(plan), **run["progress"]}
    down = [choice["name"] for choice in plan["database"]["down"]]
    earlier = [name for name in plan["database"]["undone"] if name not in down]
    gone = [] if run.get("forward") else [*run["rolled_back"], *earlier]
    hosts = {}
    for host, entry in plan["hosts"].items():
        reasons = [dict(reason) for reason in failures.get(host) or ()]
        services = _read(now.get(host) or {})
        serves = _serves(plan, host, services, progress[host], gone)
        # What the load balancer had drained stays so where nothing can give it back.
        drained = progress[host]["drained"] or (entry["out"] and not plan["rollout"]["hooks"])
        hosts[host] = {
            "before": entry["before"],
            "target": plan["release"],
            "now": {name: _running(services.get(name)) for name in entry["services"]},
            "serves": serves,
            "in_rotation": not drained and serves != IS_NOTHING,
            # The load balancer did not say that it gave the host back, nor that it did not.
            "unsure": bool(progress[host].get("unsure")) and serves != IS_NOTHING,
            "status": progress[host]["status"],
            "reasons": reasons,
            "next": "",
        }
    fleet = [dict(reason) for reason in failures.get("fleet") or ()]
    result = _result(plan, hosts, fleet, progress, gone, now, run)
    # What an earlier try began is still to be finished when this one stops before its first change.
    reasons = [*fleet, *(reason for entry in hosts.values() for reason in entry["reasons"])]
    keeps_lock = bool(plan.get("resumed")) and any(reason["phase"] == "Prepare" for reason in reasons)
    # The lock of a host that was lost could not be given back, and only this run may take it again.
    lost = any(
        _locked(result) and not (now.get(host) or {}).get("engine") for host, result in (run.get("locks") or {}).items()
    )
    again = again_command(plan, gone) + (f" -e rollback_resume={plan['run_id']}" if lost or keeps_lock else "")
    for host, entry in hosts.items():
        fine = (IS_TARGET, IS_EITHER) if result == UNRESOLVED else (IS_TARGET, IS_EITHER, IS_BEFORE)
        if entry["reasons"] or not entry["in_rotation"] or entry["serves"] not in fine:
            services = _read(now.get(host) or {})
            reached = bool((now.get(host) or {}).get("engine"))
            entry["next"] = next_command(again, host, plan["hosts"][host], entry["reasons"], services, gone, reached)
    return {
        "result": result,
        "release": plan["release"],
        "run_id": plan["run_id"],
        "hosts": hosts,
        "fleet": fleet,
        "why": (run.get("step") or {}).get("why") or "",
        "keeps_lock": keeps_lock,
        "rolled_back": gone,
        "forward": bool(run.get("forward")),
        # Without a dump nothing could be put back when the database went forward again.
        "not_back": list(plan["database"]["lost"]) if run.get("forward") and not plan["database"]["dumps"] else [],
        "backups": [
            {"host": plan["runner"], **{key: made[key] for key in ("id", "kind", "file", "size", "sha256")}}
            for made in run.get("backups") or ()
        ],
        "phases": durations(run["phases"]),
    }


def _locked(result: Mapping[str, Any]) -> bool:
    """Whether a task took the lock of its host."""
    return bool(result) and not any(result.get(key) for key in ("failed", "skipped", "unreachable"))


def _result(
    plan: Mapping[str, Any],
    hosts: Mapping[str, Mapping[str, Any]],
    fleet: Sequence[Mapping[str, str]],
    progress: Mapping[str, Mapping[str, Any]],
    rolled_back: Sequence[str],
    now: Mapping[str, Mapping[str, Any]],
    run: Mapping[str, Any],
) -> str:
    serving = {host: entry for host, entry in hosts.items() if entry["in_rotation"]}
    serves = {entry["serves"] for entry in serving.values()} - {IS_EITHER}
    unproved = fleet or any(reason["phase"] == "Verify" for entry in serving.values() for reason in entry["reasons"])
    failed = any(entry["reasons"] for entry in hosts.values())
    touched = bool(run["rolled_back"]) or any(mark["touched"] for mark in progress.values())
    # From there on the writers of some hosts may be gone.
    quiesced = any(
        reason["phase"] not in ("Plan", "Prepare") and not plan["online"]
        for entry in hosts.values()
        for reason in entry["reasons"]
    )
    # What users may not reach is no proof that anybody serves them.
    reached = [host for host, entry in serving.items() if not entry["unsure"]]
    parts = {part for host in reached for part in plan["hosts"][host]["components"]}
    complete = parts >= {part for entry in plan["hosts"].values() for part in entry["components"]}
    lacking = not complete and len(reached) < len(serving)
    if serves == {IS_TARGET} and complete and not unproved and _target_proved(plan, serving, now, run):
        return HELD if failed or len(serving) < len(hosts) else REACHED
    if serves == {IS_BEFORE} and complete and not unproved and not rolled_back:
        if not touched:
            return FAILED
        if _before_proved(plan, serving, progress, now):
            return RESTORED
    # What was never touched is as it was, be it nothing at all; but no run says of two releases that one serves.
    doubtful = unproved or lacking or len(serves - {IS_UNKNOWN}) > 1
    return UNRESOLVED if touched or quiesced or doubtful else FAILED


def _target_proved(
    plan: Mapping[str, Any],
    serving: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    run: Mapping[str, Any],
) -> bool:
    """Return whether the hosts that run the target also serve it: none of them failed, and something says they do."""
    if run.get("forward") or any(entry["reasons"] for entry in serving.values()):
        return False
    # Where the rollout went to its end, Verify looked at them; elsewhere the last reading has to do.
    verified = not plan["changed"] or (run.get("step") or {}).get("end") in (_rollout.COMPLETE, _rollout.DRAIN)
    if verified:
        return True
    readings = {host: _read(now.get(host) or {}) for host in serving if plan["hosts"][host]["services"]}
    return all(
        services and all(_rollout.answers(service) for service in services.values()) for services in readings.values()
    )


def _before_proved(
    plan: Mapping[str, Any],
    serving: Mapping[str, Mapping[str, Any]],
    progress: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Return whether the hosts serve one release again, and those that were changed do it as before."""
    # A fleet that began on two releases is on two again.
    if len({entry["before"] for entry in serving.values() if entry["serves"] != IS_EITHER}) > 1:
        return False
    return not any(
        _rollout.restore_doubts(plan, host, now.get(host) or {})
        for host in serving
        if progress[host]["touched"] or plan["hosts"][host]["stop_writers"]
    )


def _read(reading: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the services of a reading; {} also where the engine did not answer: its containers may come back."""
    if not (reading.get("engine") or {}).get("version"):
        return {}
    return reading.get("services") or {}


def _serves(
    plan: Mapping[str, Any],
    host: str,
    services: Mapping[str, Any],
    mark: Mapping[str, Any],
    rolled_back: Sequence[str],
) -> str:
    entry = plan["hosts"][host]
    concerned = {name: planned for name, planned in entry["services"].items() if planned["part"] in plan["moves"]}
    if not entry["services"]:
        # It serves nobody, whatever comes of it.
        return IS_EITHER
    if not services:
        if mark["touched"] or entry["stop_writers"] or not plan["moves"]:
            return IS_UNKNOWN
        if not concerned:
            return IS_EITHER
        return IS_BEFORE if entry["change"] else IS_TARGET
    containers = {name: (services.get(name) or {}).get("running") or {} for name in concerned or entry["services"]}
    if not any(_may_serve(running, mark) for running in containers.values()):
        return IS_NOTHING
    found = set()
    for name, planned in concerned.items():
        service = services.get(name) or {}
        target = _rollout.runs_target(planned, service)
        before = _rollout.runs_before(planned, service, entry["before"])
        if containers[name].get("state") != "running":
            # It restarts, or never came up: what users get of it is no release.
            as_it_was = before and not mark["touched"] and not entry["stop_writers"]
            found.add(IS_BEFORE if as_it_was else IS_OTHER)
        elif planned["part"] not in plan["parts"]:
            # The API is the target's all along where the database alone goes back: it serves what the database is.
            found.add((IS_TARGET if rolled_back else IS_BEFORE) if target else IS_OTHER)
        elif target and before:
            found.add(IS_EITHER)
        else:
            found.add(IS_TARGET if target else IS_BEFORE if before else IS_OTHER)
    if not found:
        return IS_EITHER if plan["moves"] else IS_TARGET
    if found == {IS_EITHER}:
        # Nothing but the checkout, or the database, tells the releases apart there.
        return IS_TARGET
    found -= {IS_EITHER}
    return found.pop() if len(found) == 1 else IS_OTHER


def _may_serve(running: Mapping[str, Any], mark: Mapping[str, Any]) -> bool:
    """Return whether a container serves, or may again: on a host that was touched, every one that was not removed."""
    return bool(running) and (bool(mark["touched"]) or running.get("state") in ("running", "restarting", "paused"))


def _running(service: Mapping[str, Any] | None) -> str:
    running = (service or {}).get("running")
    if service is None:
        return "not known"
    if not running:
        return "no container"
    health = (service.get("health") or {}).get("status") or running.get("health") or "-"
    return f"{release_of(service)} {running.get('state')} {health}"


def next_command(
    again: str,
    host: str,
    entry: Mapping[str, Any],
    reasons: Sequence[Mapping[str, str]],
    services: Mapping[str, Any],
    rolled_back: Sequence[str],
    reached: bool = False,
) -> str:
    """Return what to type for one host that did not get there, ``again`` being the command of the whole rollback.

    A host that was ``reached`` and shows no services has an engine that does not answer.
    """
    if not services and entry["services"]:
        mend = f"ansible {host} -b -a 'systemctl restart docker'" if reached else f"ssh to {host}"
        return f"{mend}; when it answers: {again}"
    phase = reasons[-1].get("phase") if reasons else ""
    if phase in ("Plan", "Prepare"):
        return f"nothing users see was changed; mend the cause, then: {again}"
    if not reasons or (phase == "Migrate down" and not rolled_back):
        return f"mend the cause, then: {again}"
    logs = f"docker compose --project-directory {entry['project_dir']} logs --tail 100"
    return f"ansible {host} -b -a '{logs}'; then: {again}; by hand: docs/recovery.md"


def again_command(plan: Mapping[str, Any], rolled_back: Sequence[str]) -> str:
    """Return the command that tries the same rollback again."""
    again = f"ansible-playbook {playbook(plan['parts'])} -e release={plan['release']}"
    if 1 < len(plan["parts"]) < len(PARTS):
        again += f" -e '{json.dumps({'rollback_parts': plan['parts']})}'"
    if plan["policy"] != "auto":
        again += f" -e rollback_migrations={plan['policy']}"
    if plan["excluded"]:
        again += f" -e rollback_exclude={','.join(plan['excluded'])}"
    for name, value in plan["again"].items():
        again += f" -e '{json.dumps({name: value})}'" if isinstance(value, list) else f" -e {name}={value}"
    if plan["database"]["price"] and not rolled_back:
        again += f" -e rollback_confirm_data_loss={plan['release']}"
    return again


def playbook(parts: Sequence[str]) -> str:
    """Return the playbook that rolls back these parts, and, of those with several, all parts unless it is told."""
    return f"rollback_{parts[0]}.yml" if len(parts) == 1 else "rollback_full.yml"


def durations(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ``{name, seconds}`` of each phase from ``{name, at}`` marks (epoch seconds); the last mark closes."""
    return [
        {"name": mark["name"], "seconds": round(float(after["at"]) - float(mark["at"]), 1)}
        for mark, after in zip(phases, phases[1:])
    ]
