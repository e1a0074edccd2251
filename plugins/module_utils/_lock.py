# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rollback lock: who may change a host now, since when, why, and until when.

The host's own clock judges the lease, since it wrote it: the clocks of controllers differ.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, Mapping

VERSION = 1
UNREADABLE = "the lock file cannot be read"
# What stands for the run id of a lock that cannot be read.
UNREADABLE_RUN = "unreadable"
# How the reason of a rollback's lock begins: roles/record/tasks/lock.yml.
REASON = "rollback to "


class LockError(Exception):
    """The lock cannot be had; the text is for the operator. ``lock`` is the one in the way, if there is one."""

    def __init__(self, message: str, lock: Lock | None = None) -> None:
        super().__init__(message)
        self.lock = lock


@dataclass(frozen=True)
class Lock:
    """A lock as it stands at one moment. Times are ISO 8601 in UTC, all texts are '' when there is no lock.

    ``held`` is False both when there is none and when its lease is over; ``expired`` tells these apart.
    """

    held: bool = False
    run_id: str = ""
    owner: str = ""
    reason: str = ""
    since: str = ""
    expires: str = ""

    @property
    def expired(self) -> bool:
        """Whether a run left it behind, its lease being over."""
        return bool(self.run_id) and not self.held

    def as_dict(self) -> dict[str, Any]:
        """``{held, run_id, owner, reason, since, expires}``."""
        return asdict(self)

    def as_text(self) -> str:
        """The content of the lock file."""
        stored = {key: value for key, value in asdict(self).items() if key != "held"}
        return json.dumps({"v": VERSION, **stored}, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What becomes of the lock. ``taken_over`` is another run's expired lock, ``removed`` the lock that was deleted."""

    lock: Lock
    changed: bool
    taken_over: Lock | None = None
    removed: Lock | None = None


def parse(text: str | None, now: float) -> Lock:
    """Read the lock file's content (None: there is no file) at the epoch time ``now``.

    A lock that cannot be read is held: nobody can tell whose it is, so only breaking it is safe.
    """
    if text is None:
        return Lock()
    try:
        raw = json.loads(text)
        fields = {key: raw[key] for key in ("run_id", "owner", "reason", "since", "expires")}
        until = from_iso(fields["expires"])
        if not fields["run_id"] or not all(isinstance(value, str) for value in fields.values()):
            raise ValueError("a lock needs a run id, and its fields are texts")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Lock(held=True, reason=UNREADABLE)
    return Lock(held=now < until, **fields)


def acquire(found: Lock, wanted: Lock, now: float, lease: int) -> Outcome:
    """Give the lock to the run of ``wanted`` for ``lease`` seconds; raise LockError when another run holds it.

    A run that has it already keeps ``since``, and ``owner`` and ``reason`` where it names none; its lease starts again.
    """
    if not wanted.run_id.strip():
        raise LockError("A lock belongs to a run, and run_id is empty. Set it to a name that no other run has.")
    if lease < 1:
        raise LockError(f"A lease of {lease} seconds is over at once. Set it to more than the longest phase takes.")
    until = to_iso(now + lease)
    if found.run_id == wanted.run_id:
        renewed = replace(
            found,
            held=True,
            owner=wanted.owner or found.owner,
            reason=wanted.reason or found.reason,
            expires=until,
        )
        # A lease that starts again is a change, unless it does so within the same second.
        return Outcome(renewed, changed=renewed != found)
    if found.held:
        raise LockError(held_message(found), found)
    fresh = replace(wanted, held=True, since=to_iso(now), expires=until)
    return Outcome(fresh, changed=True, taken_over=found if found.expired else None)


def release(found: Lock, run_id: str) -> Outcome:
    """Remove the lock when it is that of ``run_id``; the lock of any other run stays."""
    if not found.run_id or found.run_id != run_id:
        return Outcome(found, changed=False)
    return Outcome(Lock(), changed=True, removed=found)


def break_lock(found: Lock, run_id: str = "") -> Outcome:
    """Remove the lock: with a ``run_id`` (UNREADABLE_RUN for none that can be read) only that one, else whoever's.

    Raises LockError when another lock is there than the one that was to be broken.
    """
    if found == Lock():
        return Outcome(found, changed=False)
    if run_id and run_id != (found.run_id or UNREADABLE_RUN):
        holder = f"is that of run {found.run_id}, held by {found.owner or 'an unnamed owner'} since {found.since}"
        raise LockError(
            f"The rollback lock {holder if found.run_id else 'cannot be read'}, not that of run {run_id}: it changed "
            f"meanwhile and stays. Make sure that no run is at work, then break it with: {breaking_command(found)}",
            found,
        )
    return Outcome(Lock(), changed=True, removed=found)


def pinned(lock: Mapping[str, Any], run_id: str) -> str:
    """Return the release that the reason of a run's own lock names as its target, '' where it holds none.

    ``lock`` is a lock as a dict. What ``previous`` means has changed once some hosts are there.
    """
    reason = str(lock.get("reason") or "")
    if not run_id or lock.get("run_id") != run_id or not reason.startswith(REASON):
        return ""
    return reason[len(REASON) :].partition(":")[0]


def breaking_command(lock: Lock) -> str:
    """What to type to break a lock, and no other."""
    return f"ansible-playbook lock.yml -e rollback_lock_break={lock.run_id or UNREADABLE_RUN}"


def held_message(lock: Lock) -> str:
    """Who is in the way and what to type."""
    breaking = breaking_command(lock)
    if not lock.run_id:
        return (
            "The rollback lock is there but cannot be read, so nobody can tell which run holds it. "
            f"Make sure that no run is at work, then break it with: {breaking}"
        )
    return (
        f"The rollback lock is held by {lock.owner or 'an unnamed owner'} since {lock.since} until {lock.expires}, "
        f"run {lock.run_id}, reason: {lock.reason or 'none given'}. Wait for that run to end. If it died, continue it "
        f"with the same command and -e rollback_resume={lock.run_id} or, to give it up, break the lock with: {breaking}"
    )


def to_iso(epoch: float) -> str:
    """Whole seconds in UTC, like 2026-05-04T03:02:01Z."""
    return datetime.fromtimestamp(int(epoch), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_iso(text: str) -> float:
    """The epoch time of what to_iso wrote. Raises ValueError for anything else."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
