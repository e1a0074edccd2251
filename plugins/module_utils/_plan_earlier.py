# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an interrupted run kept of its plan, and how the next try goes on from there. Pure.

Nothing that was there before the first change of the run is forgotten by a later try.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _rollout

# What a plan keeps of a service as it was before the first change.
_BEFORE = ("before_release", "before_image_id", "before_build_id", "before_state", "before_health")


def plan_to_keep(plan: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return what a host keeps of the plan, for a run that takes this one up: itself, and what concerns all hosts."""
    shown_only = ("refusals", "warnings", "candidates")
    kept = {key: value for key, value in plan.items() if key not in shown_only}
    return {**kept, "hosts": {host: plan["hosts"][host]}}


def earlier_tries(good: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
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


def take_up(
    hosts: Mapping[str, dict[str, Any]],
    database: dict[str, Any],
    good: Mapping[str, Mapping[str, Any]],
    earlier: Mapping[str, Any] | None,
) -> None:
    """Keep to what there was before the first change of this run, where an earlier try of it was interrupted.

    ``undone`` are the migrations that the run takes down, its earlier tries included, ``lost`` what that loses,
    ``dumps`` where that can be had back from, ``before`` what was applied, ``stranded`` what the release from before
    lacks since another run took it down.
    """
    database["undone"] = [choice["name"] for choice in database["down"]]
    database["lost"] = list(database["price"])
    database["dumps"] = [database["backup"]["path"]] if database["backup"] else []
    if earlier:
        _take_over(hosts, database, good, earlier)
    database["stranded"] = _stranded(hosts, database, good)


def _stranded(
    hosts: Mapping[str, Mapping[str, Any]], database: Mapping[str, Any], good: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the migrations that the checkouts have and the database has no more, where no API ran before the run.

    One that ran did so on this schema, and may again.
    """
    apis = {
        host: [service for service in entry["services"].values() if service["part"] == "application"]
        for host, entry in hosts.items()
    }
    if any(service["before_state"] != "absent" for services in apis.values() for service in services):
        return []
    known = {
        name for host, services in apis.items() if services for name in good[host]["git"].get("head_migrations") or ()
    }
    return [name for name in database["rolled_back"] if name in known and name not in database["undone"]]


def _take_over(
    hosts: Mapping[str, dict[str, Any]],
    database: dict[str, Any],
    good: Mapping[str, Mapping[str, Any]],
    earlier: Mapping[str, Any],
) -> None:
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
            kept = found["services"].get(name) or {}
            service.update({key: kept[key] for key in _BEFORE if key in kept})
            now = good[host]["services"].get(name) or {}
            nothing = service["before_state"] == "absent" and not now.get("running")
            if not nothing and not _rollout.runs_before(service, now, entry["before"]):
                entry["touched"] = True
                # Users may have reached it, as far as anybody knows.
                entry["traffic"] = entry.get("traffic", False) or (
                    _rollout.runs_target(service, now) and not entry["out"]
                )
