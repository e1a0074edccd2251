# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Who is in the load balancer's rotation, and whether it did what it was asked. Pure: answers in, decisions out."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Mapping, Sequence

# What community.general.haproxy adds to the output of its own accord: the weight that it asked for.
_WEIGHT = re.compile(r"\d+ \(initial")


def is_out(state: str) -> bool:
    """Return whether a server in this state gets no requests, whatever its health check says."""
    return state.startswith(("MAINT", "DRAIN"))


def servers(stats: str) -> dict[str, list[tuple[str, str]]]:
    """Return {server: [(backend, state)]} of HAProxy's statistics page as CSV.

    Source: its management guide, section 9.1 (pxname, svname and status).
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(stats.lstrip("# "))) if stats else ():
        found.setdefault(row.get("svname", ""), []).append((row.get("pxname", ""), row.get("status", "")))
    return found


def _states(rows: Mapping[str, Sequence[tuple[str, str]]], server: str, backends: Sequence[str]) -> list[str]:
    """Return the states of a server in some backends, or in all (``[]``)."""
    return [state for backend, state in rows.get(server, ()) if not backends or backend in backends]


def rotation_doubts(
    excluded: Sequence[str],
    drained: Sequence[str],
    stats: str = "",
    error: str = "",
    names: Mapping[str, str] | None = None,
    backends: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Return {host: doubt} for excluded hosts; '' when the load balancer, or the operator, says it is out of rotation.

    ``stats`` are HAProxy's statistics, ``error`` why there are none. ``names`` maps hosts to their servers where
    these are called otherwise, ``backends`` maps them to the ones that count, all of them where it has none.
    """
    doubts = {}
    rows = servers(stats)
    for host in excluded:
        states = _states(rows, (names or {}).get(host) or host, (backends or {}).get(host) or ())
        if host in drained:
            doubts[host] = ""
        elif error:
            doubts[host] = f"the load balancer could not be asked whether it is out of rotation: {error}"
        elif not rows:
            doubts[host] = "nothing confirms that it is out of rotation (rollback_rotation_url is not set)"
        elif not states:
            doubts[host] = "the load balancer has no server of that name"
        elif all(map(is_out, states)):
            doubts[host] = ""
        else:
            seen = ", ".join(sorted(set(states)))
            doubts[host] = f"the load balancer says {seen}: it would serve again as soon as it answers"
    return doubts


def drained_hosts(
    stats: str, names: Mapping[str, str], backends: Mapping[str, Sequence[str]] | None = None
) -> dict[str, bool]:
    """Return the hosts that HAProxy's statistics show out of rotation: True when out of every backend.

    ``names`` maps hosts to their servers, ``backends`` to the ones that count, all of them where it has none.
    """
    rows = servers(stats)
    out = {
        host: [is_out(state) for state in _states(rows, name, (backends or {}).get(host) or ())]
        for host, name in names.items()
    }
    return {host: all(states) for host, states in out.items() if any(states)}


def rotation_failures(results: Sequence[Mapping[str, Any]], wanted: str, server: str, socket: str) -> list[str]:
    """Return what contradicts in the answers of the load balancers, [] when every server's state matches ``wanted``.

    ``results`` are those of community.general.haproxy in a loop over ``[load balancer, backend]``. It succeeds for a
    server that no backend has and for a refused command: that is told in its output, which else is empty or a weight.
    """
    found = []
    for result in results:
        if result.get("skipped"):
            continue
        states = [str(state["status"]) for state in result.get("state_after") or ()]
        refused = [text.strip() for text in result.get("output") or () if text.strip() and not _WEIGHT.match(text)]
        if result.get("unreachable"):
            why = "it cannot be reached"
        elif refused:
            why = refused[0]
        elif states:
            why = "" if all(re.match(wanted, state) for state in states) else ", ".join(states)
        elif "state_after" in result:
            why = f"no backend has the server {server}"
        else:
            why = str(result.get("msg") or f"nothing answers at {socket}")
        if why:
            found.append(f"{result['item'][0]}: {why}")
    return found


def hook_problems(hooks: Mapping[str, Mapping[str, Any]], balancers: Sequence[str], group: str) -> list[str]:
    """Return why the hooks cannot work, [] when they can.

    ``hooks`` maps "drain" and "undrain" to ``{tasks, command, file}``: what is set, and the task file that was found.
    """
    found = []
    if len({bool(hook["tasks"]) for hook in hooks.values()}) > 1:
        found.append(
            "Only one of rollback_drain_tasks and rollback_undrain_tasks is set: set both, or a drained host would "
            "never come back."
        )
    for name, hook in hooks.items():
        option = f"rollback_{name}_tasks"
        if hook["tasks"] == "haproxy" and not balancers:
            found.append(f"{option} is haproxy, but no host is in the group {group}.")
        elif hook["tasks"] == "command" and not hook["command"]:
            found.append(f"{option} is command, but rollback_{name}_command is empty.")
        elif hook["tasks"] not in ("", "haproxy", "command") and not hook["file"]:
            found.append(f"{option} is {hook['tasks']}, but no such file is beside the inventory or the playbook.")
    return found
