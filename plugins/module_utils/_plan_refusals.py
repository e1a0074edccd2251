# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Why a rollback does not start: every reason of every host and of the fleet. Pure: readings in, refusals out."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Mapping

from ansible_collections.connectin.rollback.plugins.module_utils import _lock, _rollout, _stack
from ansible_collections.connectin.rollback.plugins.module_utils._plan_options import Options, first_line, refusal

# Each batch is a level of Ansible's own recursion, and takes some seconds.
MAX_BATCHES = 100


def lost(stack: Mapping[str, Any]) -> bool:
    """Return whether a host could not be read: it was not reached, or the reading failed."""
    return bool(stack.get("unreachable") or stack.get("failed"))


def host_refusals(host: str, stack: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what one host says against it."""
    if stack.get("unreachable"):
        return [
            refusal(
                host,
                "unreachable",
                f"the host cannot be reached: {first_line(stack.get('msg'))}",
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
            f"root rights cannot be had there: {first_line(stack.get('msg'))}",
            "add --ask-become-pass, or allow the user sudo; a user of the docker group may set ansible_become=false",
        )
    return refusal(
        host,
        "reading_failed",
        f"the host was reached but not read: {first_line(said)}",
        f"ansible -m ansible.builtin.ping {host}",
    )


def fleet_refusals(stacks: Mapping[str, Any], options: Options) -> list[dict[str, str]]:
    """Return what keeps the fleet as a whole: hosts that a limit, an exclusion or their own variables leave out."""
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


def resolve_target(good: Mapping[str, Mapping[str, Any]], options: Options, refusals: list[dict[str, str]]) -> str:
    """Return the one release every host resolved, or '' with the refusal added."""
    if not options.release:
        refusals.append(
            refusal("fleet", "release_missing", "no release was named", "choose one below: -e release=<release>")
        )
        return ""
    pinned = _pinned_release(good, options.run_id)
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
        if _stack.is_release_name(options.release):
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


def _pinned_release(good: Mapping[str, Mapping[str, Any]], run_id: str) -> str:
    """Return the target of a run that holds its lock already on some host, '' for a new run."""
    return next(filter(None, (_lock.pinned(stack.get("lock") or {}, run_id) for stack in good.values())), "")


def frozen_refusals(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
    """Refuse ``previous`` after a rollback: what it names then is older than what people have in mind."""
    frozen = {host: stack["ledger"].get("frozen") for host, stack in good.items() if stack["ledger"].get("frozen")}
    if options.release != "previous" or not frozen or _pinned_release(good, options.run_id):
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


def resume_refusals(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
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


def target_refusals(good: Mapping[str, Mapping[str, Any]], release: str, options: Options) -> list[dict[str, str]]:
    """Return where the hosts do not have one and the same target."""
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


def switch_refusals(good: Mapping[str, Mapping[str, Any]], options: Options) -> list[dict[str, str]]:
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


def batch_refusals(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Refuse more batches than a run gets through."""
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
