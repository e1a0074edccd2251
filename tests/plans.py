"""Plans for the tests of what is decided on them, made from readings."""

from __future__ import annotations

from ansible_collections.connectin.rollback.plugins.module_utils import _plan, _plan_options
from rollback_readings import history, stack

FULL = ("application", "database", "frontend")


def options(hosts=("app1",), release="v1.1.0", consent="v1.1.0", **changes) -> _plan_options.Options:
    values = {
        "release": release,
        "parts": FULL,
        "policy": "auto",
        "consent": consent,
        "components": {host: ["application", "frontend"] for host in hosts},
        "services": {"application": "api", "frontend": "web"},
        "run_id": "run1",
        "runner": "app1",
        **changes,
    }
    return _plan_options.Options(**values)


def plan(stacks=None, database="default", **changes) -> dict:
    stacks = {"app1": stack()} if stacks is None else stacks
    given = history() if database == "default" else database
    return _plan.make_plan(stacks, given, options(tuple(stacks), **changes))


def codes(made: dict) -> list[str]:
    return [entry["code"] for entry in made["refusals"]]


def refused(made: dict, code: str) -> dict:
    """Return the one refusal with a code."""
    (found,) = (entry for entry in made["refusals"] if entry["code"] == code)
    return found


def with_git(reading: dict, **changes) -> dict:
    reading["git"].update(changes)
    return reading


DOWN_DATABASE = {"error": "connection refused\nIs the server running?", "code": "database_unreachable", "next": ""}


def moved_image() -> dict:
    reading = stack()
    reading["services"]["web"]["target_digest"] = "sha256:other"
    return reading
