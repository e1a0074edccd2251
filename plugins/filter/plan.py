# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import importlib.util
import re
from typing import Any, Mapping, Sequence

from ansible.errors import AnsibleFilterError
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _outcome,
    _plan,
    _plan_database,
    _plan_earlier,
    _plan_options,
    _report,
    _rollout,
    _rotation,
    _verify,
)
from ansible_collections.connectin.rollback.plugins.module_utils._stack import release_of


def _options(raw: Mapping[str, Any]) -> _plan_options.Options:
    if raw["policy"] not in ("auto", "keep", "down"):
        raise AnsibleFilterError(f"rollback_migrations is auto, keep or down, not {raw['policy']!r}")
    lists = ("parts", "missing", "unread", "writers", "batches")
    return _plan_options.Options(**{**raw, **{name: tuple(raw[name]) for name in lists if name in raw}})


def make_plan(
    stacks: Mapping[str, Any], database: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        plan = _plan.make_plan(stacks, database, _options(options))
        if importlib.util.find_spec("jmespath") is None:
            # The gates poll from here, and would call every host unhealthy.
            missing = "Python's jmespath is not on the controller, so nothing can be polled"
            plan["refusals"].append(_plan_options.refusal("fleet", "jmespath_missing", missing, "pip install jmespath"))
        return plan
    except _rollout.RolloutError as error:
        raise AnsibleFilterError(str(error)) from error


def fleet(hosts: str, exclude: str = "") -> str:
    """Return the host pattern of a fleet without the hosts of a comma-separated list."""
    return ":!".join([hosts, *[name.strip() for name in exclude.split(",") if name.strip()]])


def next_batch(
    plan: Mapping[str, Any], progress: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return _rollout.next_step(plan, progress, before)


def begun(plan: Mapping[str, Any], host: str) -> dict[str, Any]:
    return _rollout.begun(plan["hosts"][host])


def plan_to_keep(plan: Mapping[str, Any], host: str) -> dict[str, Any]:
    return _plan_earlier.plan_to_keep(plan, host)


def fault_of(plan: Mapping[str, Any], host: str, reading: Mapping[str, Any], gated: bool = False) -> str:
    return _rollout.fault_of(plan, host, reading, gated)


def restore_doubts(reading: Mapping[str, Any], plan: Mapping[str, Any], host: str) -> list[str]:
    return _rollout.restore_doubts(plan, host, reading)


def plan_runner(stacks: Mapping[str, Any], wanted: str = "") -> str:
    """Return the host that talks to the database: the one named, else the first that could be read."""
    if wanted:
        return wanted
    return next(
        (
            host
            for host, stack in stacks.items()
            if stack.get("services") is not None and not stack.get("unreachable") and not stack.get("failed")
        ),
        "",
    )


def known_migrations(stacks: Mapping[str, Any], release: str) -> list[str] | None:
    """Return the migrations the target contains; without a target, those that every recorded release contains."""
    good = {host: stack for host, stack in stacks.items() if stack.get("services") is not None}
    if release:
        return _plan_database.target_migrations(good, release)
    recorded = [
        set(entry["migrations"])
        for stack in good.values()
        for entry in stack["ledger"]["releases"]
        if entry.get("migrations") is not None
    ]
    return sorted(set.intersection(*recorded)) if recorded else None


def _verify_problems(reading: Mapping[str, Any], plan: Mapping[str, Any], host: str) -> list[str]:
    return _verify.problems(plan, host, reading)


def _first_lines(result: Mapping[str, Any], limit: int = 3) -> str:
    """Return what a failed task said, short enough for a table."""
    text = result.get("msg") or ""
    extra = result.get("stderr") or result.get("stdout") or ""
    said = [line.strip() for line in f"{text}\n{extra}".splitlines() if line.strip()]
    return " | ".join(dict.fromkeys(said[:limit])) or "the task failed without a message"


def _log_errors(lines: Sequence[str], pattern: str) -> list[str]:
    expression = re.compile(pattern)
    return [line for line in lines if expression.search(line)]


def collect(hostvars: Mapping[str, Any], hosts: Sequence[str], name: str) -> dict[str, Any]:
    """Return {host: value} of one variable, for the hosts that have it."""
    found = {}
    for host in hosts:
        variables = hostvars[host]
        if name in variables:
            found[host] = variables[name]
    return found


def stack_addresses(stacks: Mapping[str, Any], host: str) -> dict[str, str]:
    """Return the container address of each service of the stack on a host, as prisma_migration's ``resolve``."""
    containers = (stacks.get(host) or {}).get("containers") or {}
    return {service: addresses[0] for service, addresses in containers.items() if addresses}


def migration_sources(
    stacks: Mapping[str, Any], host: str, service: str, folder: str, image_folder: str = ""
) -> list[str]:
    """Return where a host has the migrations of the release that runs, as prisma_migration's ``path`` takes it.

    ``folder`` is that of the checkout, ``image_folder`` the one in the image of ``service``; '' looks into no image.
    """
    running = (((stacks.get(host) or {}).get("services") or {}).get(service) or {}).get("running") or {}
    image = running.get("image_id")
    return [folder, *([f"image:{image}:{image_folder}"] if image and image_folder else [])]


def image_services(wanted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the Compose services that name the images of a plan's ``{key, value}`` items, for one pull of all."""
    return {item["key"]: {"image": item["value"]["image"]} for item in wanted}


def image_tags(wanted: Sequence[Mapping[str, Any]], release: str) -> dict[str, str]:
    """Return {service: release} for a plan's ``{key, value}`` items, as compose_image takes it."""
    return {item["key"]: release for item in wanted}


def poll_failures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``{host, text, answered}`` of each endpoint that was not ready; the poll's own failure is the fleet's."""
    # Not from a list under the key ``failed``: Ansible turns that one into the task's own status.
    found = []
    for entry in result.get("endpoints") or ():
        if not entry["ready"]:
            reason = (entry.get("failures") or ["it did not hold until the deadline"])[-1]
            text = f"{entry['name']} at {entry['url']}: {reason}"
            found.append({"host": entry["host"], "text": text, "answered": bool(entry.get("status"))})
    return found or [{"host": "fleet", "text": _first_lines(result), "answered": False}]


def with_failure(earlier: Mapping[str, str] | None, phase: str, result: Mapping[str, Any]) -> dict[str, str]:
    """Return ``{phase, message}`` of a failed task's result; what failed there earlier comes first."""
    message = _first_lines(result) if result else "the host was lost"
    if not earlier:
        return {"phase": phase, "message": message}
    return {**earlier, "message": f"{earlier['message']}; then in {phase}: {message}"}


def failures_by_host(
    failures: Mapping[str, Mapping[str, str]], planned: Sequence[str], alive: Sequence[str]
) -> dict[str, list[dict[str, str]]]:
    """Return {host: [{phase, message}]}; a planned host that is no longer in the run was lost."""
    found = {host: [dict(failure)] for host, failure in failures.items()}
    for host in planned:
        if host not in alive and host not in found:
            found[host] = [{"phase": "Switch", "message": "the host was lost"}]
    return found


def ledger_services(stack: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what release_ledger keeps of each running service: image, digest, image_id, build_id."""
    found = {}
    for name, service in (stack.get("services") or {}).items():
        running = service.get("running") or {}
        digest = next((str(known).rpartition("@")[2] for known in running.get("repo_digests") or ()), "")
        found[name] = {
            "image": running.get("image") or "",
            "digest": digest,
            "image_id": running.get("image_id") or "",
            "build_id": service.get("build_id") or "",
        }
    return found


def running_release(stack: Mapping[str, Any]) -> str:
    """Return the release that a host's containers run by their tags and builds, or '' when they differ."""
    tags = {release_of(service) for service in stack["services"].values()}
    return tags.pop() if len(tags) == 1 else ""


def adoption_doubts(stacks: Mapping[str, Mapping[str, Any]], release: str, verdict: str) -> list[str]:
    """Return why the fleet cannot be recorded as one release, per host; [] when it can."""
    doubts = []
    seen = {}
    for host, stack in stacks.items():
        if stack.get("unreachable") or stack.get("services") is None:
            doubts.append(f"  {host}: it could not be read")
            continue
        doubts += [f"  {host}: {entry['message']}; next: {entry['next']}" for entry in stack["refusals"]]
        if not stack["services"]:
            # It only runs the database's part.
            continue
        seen[host] = running_release(stack)
        for name, service in stack["services"].items():
            running = service.get("running") or {}
            if running.get("state") != "running":
                doubts.append(f"  {host}: {name} does not run ({running.get('state') or 'no container'})")
            status = (service.get("health") or {}).get("status")
            if verdict == "good" and status != 200:
                doubts.append(
                    f"  {host}: {name} answers {status or 'nothing'}; next: -e rollback_verdict=bad, or mend it"
                )
        if release and seen[host] and seen[host] != release:
            doubts.append(f"  {host}: its containers run {seen[host]}, not {release}")
        if not release and not seen[host]:
            doubts.append(f"  {host}: its containers run different tags; next: -e release=<release>")
    if len(set(seen.values())) > 1:
        doubts.append("  the hosts run different releases: " + ", ".join(f"{host} {tag}" for host, tag in seen.items()))
    return doubts


class FilterModule:
    """The decisions of the collection, for its own roles."""

    def filters(self) -> dict[str, Any]:
        return {
            "make_plan": make_plan,
            "fleet": fleet,
            "next_batch": next_batch,
            "begun": begun,
            "plan_to_keep": plan_to_keep,
            "fault_of": fault_of,
            "restore_doubts": restore_doubts,
            "migrating_host": _rollout.migrating_host,
            "lost_dumps": _rollout.lost_dumps,
            "writers_may_start": _rollout.writers_may_start,
            "collect": collect,
            "poll_failures": poll_failures,
            "failures_by_host": failures_by_host,
            "with_failure": with_failure,
            "ledger_services": ledger_services,
            "running_release": running_release,
            "adoption_doubts": adoption_doubts,
            "image_services": image_services,
            "image_tags": image_tags,
            "stack_addresses": stack_addresses,
            "rotation_doubts": _rotation.rotation_doubts,
            "drained_hosts": _rotation.drained_hosts,
            "rotation_failures": _rotation.rotation_failures,
            "hook_problems": _rotation.hook_problems,
            "plan_runner": plan_runner,
            "known_migrations": known_migrations,
            "migration_sources": migration_sources,
            "plan_lines": _report.plan_lines,
            "refusal_lines": _report.refusal_lines,
            "outcome": _outcome.outcome,
            "outcome_lines": _report.outcome_lines,
            "report": _report.report,
            "backup_list": _report.backup_list,
            "backup_lines": _report.backup_lines,
            "restore_lines": _report.restore_lines,
            "locked_by": _report.locked_by,
            "lock_lines": _report.lock_lines,
            "freeze_lines": _report.freeze_lines,
            "list_lines": _report.list_lines,
            "asking_host": _verify.asking_host,
            "verify_endpoints": _verify.endpoints,
            "verify_problems": _verify_problems,
            "first_lines": _first_lines,
            "log_errors": _log_errors,
        }
