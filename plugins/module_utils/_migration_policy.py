# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which migrations that the target does not know are kept, and which go down.

The words keep and down, and the policy ``auto``, are those of the documentation page "How a rollback is decided".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

POLICIES = ("auto", "keep", "down")


@dataclass(frozen=True)
class Choice:
    """What happens to one migration, newest first in a list of choices.

    ``price`` holds the loss entries that count: those with rows, and those whose number of rows is not known.
    """

    name: str
    action: str  # keep | down
    reason: str
    price: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "action": self.action, "reason": self.reason, "price": [dict(p) for p in self.price]}


def counted_loss(migration: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the loss entries of a migration that destroy something, or that nobody could count."""
    return tuple(entry for entry in migration.get("loss") or () if entry.get("count") != 0)


def _own_verdict(migration: Mapping[str, Any]) -> tuple[str, str]:
    """Return (action, reason) of one migration looked at alone, under the policy ``auto``."""
    directive = migration.get("directive") or ""
    if directive in ("keep", "down"):
        return directive, f"its down.sql says '-- rollback: {directive}'"
    if migration.get("state") == "failed":
        return "down", "it failed halfway"
    if migration.get("additive"):
        return "keep", "it only adds: the target runs on the newer schema"
    reasons = migration.get("reasons") or ["it was not recognised as additive"]
    return "down", str(reasons[0])


def choose(unknown: Sequence[Mapping[str, Any]], policy: str) -> list[Choice]:
    """Decide for every migration unknown to the target; input and result are ordered newest first.

    Under ``auto`` everything newer than a migration that goes down goes down with it: scripts are only known to
    work in the reverse order of their application.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy is one of {', '.join(POLICIES)}, not {policy!r}")
    verdicts = [_own_verdict(migration) for migration in unknown]
    oldest_down = max((index for index, (action, _why) in enumerate(verdicts) if action == "down"), default=-1)
    choices = []
    for index, (migration, (action, reason)) in enumerate(zip(unknown, verdicts)):
        if policy != "auto":
            action, reason = policy, f"rollback_migrations is '{policy}'"
        elif action == "keep" and index < oldest_down:
            action, reason = "down", f"newer than {unknown[oldest_down]['name']}, which goes down"
        price = counted_loss(migration) if action == "down" else ()
        choices.append(Choice(str(migration["name"]), action, reason, price))
    return choices
