# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What must hold once the target runs: the endpoints to poll, and what a second reading of the hosts must show."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils._stack import is_target


def endpoints(
    plan: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]], readings: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the endpoints for health_poll.

    ``targets`` maps hosts to ``{service: {url, body, version, assets_prefix}}`` from the inventory; a ``version``
    expression is compared with the target's name, where the target has to run. The served page must name the BUILD_ID
    that its container holds.
    """
    found = []
    for host, entry in plan["hosts"].items():
        for name in entry["services"]:
            settings = targets.get(host, {}).get(name)
            if not settings:
                continue
            endpoint = {
                "name": name,
                "host": host,
                "url": settings["url"],
                "assets_prefix": settings.get("assets_prefix") or "",
            }
            checks = []
            if plan["database"]["reachable"]:
                checks += [settings["body"]] if settings.get("body") else []
            elif entry["services"][name]["part"] == "application":
                # The database is down and the rollback cannot cure that: the version is what can be proved.
                endpoint["status"] = [200, 503]
            # The database alone goes down only where the target's API runs; where nothing goes down, any may run.
            at_target = entry["services"][name]["part"] in plan["parts"] or not plan["online"]
            if settings.get("version") and at_target:
                checks.append(f"{settings['version']} == '{plan['release']}'")
            endpoint["body"] = " && ".join(f"({check})" for check in checks)
            built = ((readings.get(host) or {}).get("services") or {}).get(name, {}).get("build_id")
            if built and settings.get("build_id_served", True):
                endpoint["contains"] = built
            found.append(endpoint)
    return found


def asking_host(plan: Mapping[str, Any], failed: Sequence[str]) -> str:
    """Return the host that polls for the fleet and runs the smoke tests, which want to find all parts of the stack.

    Held hosts (``failed``) are not there any more, the coordinator may be one of them; '' when none is left.
    """
    left = [host for host in plan["hosts"] if host not in failed]
    return next((host for host in left if len(plan["hosts"][host]["components"]) > 1), left[0] if left else "")


def problems(plan: Mapping[str, Any], host: str, reading: Mapping[str, Any]) -> list[str]:
    """Return what one host's new reading contradicts: image digest or build, state, checkout; [] when all holds."""
    entry = plan["hosts"][host]
    found = []
    for name, planned in entry["services"].items():
        service = (reading.get("services") or {}).get(name) or {}
        running = service.get("running")
        if not running or running.get("state") != "running":
            found.append(f"{name}: its container is {(running or {}).get('state') or 'not there'}, not running")
            continue
        if planned["build_id"] is not None:
            if planned["part"] in plan["parts"] and service.get("build_id") != planned["build_id"]:
                linked = service.get("build_id") or "unknown"
                found.append(f"{name}: the kept build that is linked is {linked}, not {planned['build_id']}")
            elif planned["part"] in plan["parts"] and not service["artifact"]["target_served"]:
                found.append(f"{name}: it does not serve build {planned['build_id']}")
        elif planned["part"] in plan["parts"] and not is_target(service):
            found.append(
                f"{name}: it runs {running.get('image')} ({str(running.get('image_id'))[7:19]}), "
                f"which is not the image of {plan['release']}"
            )
        if running.get("health") not in (None, "", "none", "healthy") and plan["database"]["reachable"]:
            found.append(f"{name}: its health check says {running['health']}")
    git = reading.get("git") or {}
    if entry["checkout"] and entry["commit"] and git.get("head") != entry["commit"]:
        found.append(
            f"the checkout is at {str(git.get('head'))[:12]}, not at {plan['release']} ({entry['commit'][:12]})"
        )
    return found
