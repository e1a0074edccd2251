# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a plan is asked for, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _rollout


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


def first_line(text: Any) -> str:
    """Return the first line of a message that says something."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[0] if lines else "no message"
