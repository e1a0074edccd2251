# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ledger: which releases ran on a host, with which images, and how each was judged.

A ledger is text, one JSON object a line, oldest first. The order of the lines counts, never ``at``: clocks jump.
A key that is null states nothing, so the newest entry that does state it decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

VERSION = 1
KINDS = ("release", "mark", "freeze", "thaw", "lock_broken")
VERDICTS = ("good", "bad", "unknown")
SERVICE_FACTS = ("image", "digest", "image_id", "build_id")

# A release is a git tag and an image tag at once, and it names a directory below the state directory: the grammar of
# an image tag is the narrowest of the three, and it leaves no room for a slash or a leading dot.
_RELEASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class LedgerError(Exception):
    """What was asked of the ledger makes no sense; the text is for the operator."""


@dataclass(frozen=True)
class Entry:
    """One line. ``kind`` is one of KINDS; versions that do not know one leave such entries out.

    ``release`` (it came to run here) and ``mark`` (something about it is now known) say how a release stands.
    ``freeze`` (deploys wait, since the host was taken back to it) and ``thaw`` (they do no longer) and ``lock_broken``
    (the rollback lock of ``run_id`` was taken away) say something about the host.
    """

    kind: str
    release: str
    at: str = ""
    verdict: str | None = None
    services: Mapping[str, Mapping[str, str]] | None = None
    migrations: Sequence[str] | None = None
    env_sha256: str | None = None
    pins: Sequence[Mapping[str, str]] | None = None
    who: str = ""
    why: str = ""
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All keys of a line, whatever was stated."""
        return {"v": VERSION, **asdict(self)}

    def as_line(self) -> str:
        """The line as it is appended, newline included."""
        return json.dumps(self.as_dict(), sort_keys=True) + "\n"


@dataclass(frozen=True)
class Ledger:
    """What could be read: ``torn`` when the last line is a fragment, ``unreadable`` the numbers of all such lines."""

    entries: tuple[Entry, ...] = ()
    torn: bool = False
    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What all entries about one release add up to; ``came`` counts the arrivals here, 0 when it never ran."""

    release: str
    came: int = 0
    verdict: str = "unknown"
    at: str = ""
    who: str = ""
    why: str = ""
    services: Mapping[str, Mapping[str, str]] | None = None
    migrations: Sequence[str] | None = None
    env_sha256: str | None = None


def check_release(name: str) -> str:
    """Return ``name`` when a release can be called that; raise LedgerError otherwise."""
    if name == "previous":
        raise LedgerError("The ledger records releases by their tag, and 'previous' is no tag: name one, like v1.4.2.")
    if not _RELEASE.fullmatch(name):
        raise LedgerError(
            f"{name!r} cannot name a release: it has to be a git tag that is an image tag as well, so letters, digits, "
            "'_', '.' and '-', at most 128 of them, not starting with '.' or '-'. Name one like v1.4.2."
        )
    return name


def parse(text: str) -> Ledger:
    """Read a ledger. A line that a crash cut off is left out, last or not: it was never acknowledged to anyone."""
    entries: list[Entry] = []
    unreadable: list[int] = []
    # Not splitlines(): it also cuts at U+2028 and the like, which JSON may leave in strings as they are.
    lines = text.split("\n")
    last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=0)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _read_line(line)
        if entry is None:
            unreadable.append(number)
        else:
            entries.append(entry)
    return Ledger(tuple(entries), torn=last in unreadable, unreadable=tuple(unreadable))


def appended(text: str, *entries: Entry) -> str:
    """What to append to the ledger ``text`` for ``entries``: lines of their own, also after a torn one."""
    lines = "".join(entry.as_line() for entry in entries)
    return ("\n" if lines and text and not text.endswith("\n") else "") + lines


def wanted(params: Mapping[str, Any], at: str, who: str, env_sha256: str | None) -> Entry:
    """The entry that the options of release_ledger ask for. Raises LedgerError where they make no sense.

    ``params`` has the keys release, kind, verdict, services, migrations, pins, freeze, why and run_id; None is not
    stated. What only freezes is a mark that states nothing.
    """
    facts = {
        "services": params["services"],
        "migrations": params["migrations"],
        "env_file": env_sha256,
    }
    stated = [name for name, value in facts.items() if value is not None]
    arrives = bool(stated) or params["pins"] is not None
    kind = params["kind"] or ("release" if arrives else "mark")
    if kind == "mark" and stated:
        raise LedgerError(
            f"A mark says what became known of a release, not what runs: {', '.join(stated)} cannot go with it. "
            "Leave these out, or set kind to release."
        )
    if kind == "mark" and params["verdict"] is None and params["pins"] is None and not params.get("freeze"):
        raise LedgerError(
            f"Nothing is said about {params['release']}. Give a verdict (good, bad or unknown) to mark it, services "
            "to record that it came to run here, or freeze to make deploys wait."
        )
    return Entry(
        kind=kind,
        release=check_release(params["release"]),
        at=at,
        verdict=params["verdict"] or ("unknown" if kind == "release" else None),
        services=None if params["services"] is None else _asked_services(params["services"]),
        migrations=params["migrations"],
        env_sha256=env_sha256,
        pins=params["pins"],
        who=who,
        why=params["why"],
        run_id=params["run_id"],
    )


def fold(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The releases that ran here, the one that came last first.

    Each is ``{release, verdict, at, who, why, services, migrations}``: ``at`` and ``who`` of its last arrival,
    ``why`` of its verdict, ``services`` ``{}`` and ``migrations`` None when no entry states them.
    """
    ran = [standing for standing in standings(entries).values() if standing.came]
    ran.sort(key=lambda standing: standing.came, reverse=True)
    return [
        {
            "release": standing.release,
            "verdict": standing.verdict,
            "at": standing.at,
            "who": standing.who,
            "why": standing.why,
            "services": {name: dict(facts) for name, facts in (standing.services or {}).items()},
            "migrations": None if standing.migrations is None else list(standing.migrations),
        }
        for standing in ran
    ]


def current(entries: Iterable[Entry]) -> str:
    """The release that came to run here last, '' when none did."""
    return next((entry.release for entry in reversed(list(entries)) if entry.kind == "release"), "")


def previous(entries: Iterable[Entry], running: str = "") -> str:
    """The newest release marked good other than the one being left, '' when there is none.

    The one being left is ``running`` where the caller knows what really runs (a deploy may have gone unrecorded, and
    then the ledger's current release is the very one to go back to), else the ledger's current release.
    """
    entries = list(entries)
    left = running or current(entries)
    good = (release["release"] for release in fold(entries) if release["verdict"] == "good")
    return next((release for release in good if release != left), "")


def pins(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """The files as this collection last wrote them, ``[{path, sha256}]``, of the newest entry that states any."""
    stated = (entry.pins for entry in reversed(list(entries)) if entry.pins is not None)
    return [dict(pin) for pin in next(stated, ())]


def pinned(entries: Iterable[Entry]) -> set[str]:
    """The SHA-256 of every file that this collection ever said it writes.

    Not only of the last ones: a pin is entered before it is written.
    """
    return {pin["sha256"] for entry in entries for pin in entry.pins or ()}


def frozen(entries: Iterable[Entry]) -> dict[str, str] | None:
    """Why deploys have to wait: ``{release, at, who, why, run_id}`` of the last freeze, None when it was lifted."""
    last = next((entry for entry in reversed(list(entries)) if entry.kind in ("freeze", "thaw")), None)
    if last is None or last.kind == "thaw":
        return None
    return {key: getattr(last, key) for key in ("release", "at", "who", "why", "run_id")}


def next_freeze(entries: Iterable[Entry], wanted: Entry) -> Entry | None:
    """The entry that freezes deploys at the release and for the run of ``wanted``, None when they are so already."""
    now = frozen(entries)
    if now and (now["release"], now["run_id"]) == (wanted.release, wanted.run_id):
        return None
    return Entry(
        kind="freeze", release=wanted.release, at=wanted.at, who=wanted.who, why=wanted.why, run_id=wanted.run_id
    )


def next_thaw(entries: Iterable[Entry], at: str, who: str, why: str, run_id: str) -> Entry | None:
    """The entry that lifts the freeze, None when nothing is frozen."""
    now = frozen(entries)
    return Entry(kind="thaw", release=now["release"], at=at, who=who, why=why, run_id=run_id) if now else None


def next_left(entries: Sequence[Entry], left: str, wanted: Entry) -> Entry | None:
    """The mark that calls the release that was left bad, for the reason of ``wanted``.

    None when it is called so already, never ran here (nobody would ever go back to it), or is what it was left for.
    """
    if not left or left == wanted.release or not ran_here(entries, left):
        return None
    mark = Entry(
        kind="mark", release=left, at=wanted.at, verdict="bad", who=wanted.who, why=wanted.why, run_id=wanted.run_id
    )
    return next_entry(entries, mark)


def broken_lock(entries: Iterable[Entry], run_id: str, at: str, who: str, why: str) -> Entry:
    """The entry that tells who took the lock of ``run_id`` away ('' when it could not be read)."""
    # A line has to name a release, or older versions cannot read it; the lock is about none.
    release = current(entries) or "unrecorded"
    return Entry(kind="lock_broken", release=release, at=at, who=who, why=why, run_id=run_id)


def ran_here(entries: Iterable[Entry], release: str) -> bool:
    """Whether a release ever came to run here."""
    return any(entry.kind == "release" and entry.release == release for entry in entries)


def standings(entries: Iterable[Entry]) -> dict[str, Standing]:
    """What is known of every release named in the ledger, also of those that were only marked."""
    known: dict[str, Standing] = {}
    for position, entry in enumerate(entries, 1):
        before = known.get(entry.release, Standing(entry.release))
        if entry.kind == "release":
            known[entry.release] = _arrive(before, entry, position)
        elif entry.kind == "mark" and entry.verdict is not None:
            known[entry.release] = replace(before, verdict=entry.verdict, why=entry.why)
        # Any other kind says nothing about how releases stand, be it of this version or of a later one.
    return known


def next_entry(entries: Sequence[Entry], wanted: Entry) -> Entry | None:
    """The entry to append so that the ledger says ``wanted``, None when it says so already.

    A release that runs here already and is only judged anew gets a mark: a second arrival would move its ``at``.
    """
    standing = standings(entries).get(wanted.release, Standing(wanted.release))
    same_pins = wanted.pins is None or _plain(wanted.pins) == _plain(pins(entries))
    # A release that arrives unjudged takes nothing back; only a mark can withdraw a verdict.
    judged = wanted.kind == "mark" or wanted.verdict != "unknown"
    same_verdict = wanted.verdict is None or not judged or wanted.verdict == standing.verdict

    if wanted.kind == "mark":
        return None if same_verdict and same_pins else wanted
    if current(entries) != wanted.release or not _same_facts(standing, wanted):
        return wanted
    if same_verdict and same_pins:
        return None
    return Entry(
        kind="mark",
        release=wanted.release,
        at=wanted.at,
        verdict=wanted.verdict if judged else None,
        pins=wanted.pins,
        who=wanted.who,
        why=wanted.why,
        run_id=wanted.run_id,
    )


def _read_line(line: str) -> Entry | None:
    """The entry in a line, None when it is none. Keys that this version does not know are left out."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("v"), int):
        return None
    if not all(isinstance(raw.get(key), str) and raw[key] for key in ("kind", "release")):
        return None
    verdict = raw.get("verdict")
    return Entry(
        kind=raw["kind"],
        release=raw["release"],
        at=_text(raw.get("at")),
        # A verdict that this version does not know is no reason to go back to that release.
        verdict=verdict if verdict is None or verdict in VERDICTS else "unknown",
        services=_services(raw.get("services")),
        migrations=_names(raw.get("migrations")),
        env_sha256=_text(raw.get("env_sha256")) or None,
        pins=_pins(raw.get("pins")),
        who=_text(raw.get("who")),
        why=_text(raw.get("why")),
        run_id=_text(raw.get("run_id")),
    )


def _arrive(before: Standing, entry: Entry, position: int) -> Standing:
    verdict, why = entry.verdict or "unknown", entry.why
    # A verdict is about images: the same ones stay judged when they come back, others under the same tag do not.
    if verdict == "unknown" and _same_images(before.services, entry.services):
        verdict, why = before.verdict, before.why
    return Standing(
        release=entry.release,
        came=position,
        verdict=verdict,
        at=entry.at,
        who=entry.who,
        why=why,
        services=before.services if entry.services is None else entry.services,
        migrations=before.migrations if entry.migrations is None else entry.migrations,
        env_sha256=before.env_sha256 if entry.env_sha256 is None else entry.env_sha256,
    )


def _same_images(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> bool:
    """Whether no service is known to have changed its image; what either side leaves open is no change."""
    if before is None or after is None:
        return True
    return all(
        not before[name].get(fact) or not after[name].get(fact) or before[name][fact] == after[name][fact]
        for name in before.keys() & after.keys()
        for fact in ("digest", "image_id")
    )


def _same_facts(standing: Standing, wanted: Entry) -> bool:
    return all(
        getattr(wanted, fact) is None or _plain(getattr(wanted, fact)) == _plain(getattr(standing, fact))
        for fact in ("services", "migrations", "env_sha256")
    )


def _plain(value: Any) -> Any:
    """``value`` with its tuples and mappings as lists and dicts, to compare what was read with what was asked."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _asked_services(raw: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Services as an operator gave them, each with all its facts as texts, '' where not known."""
    services = {}
    for name, facts in raw.items():
        if not isinstance(facts, Mapping) or not facts.keys() <= set(SERVICE_FACTS):
            raise LedgerError(
                f"services.{name} has to be a dictionary with no other keys than {', '.join(SERVICE_FACTS)}; "
                f"found {', '.join(map(str, facts)) if isinstance(facts, Mapping) else repr(facts)}."
            )
        # YAML reads a build id such as 4711 as a number.
        services[str(name)] = {fact: "" if facts.get(fact) is None else str(facts[fact]) for fact in SERVICE_FACTS}
    return services


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else None


def _services(value: Any) -> dict[str, dict[str, str]] | None:
    if not isinstance(value, dict):
        return None
    return {
        name: {fact: _text(facts.get(fact)) for fact in SERVICE_FACTS}
        for name, facts in value.items()
        if isinstance(facts, dict)
    }


def _pins(value: Any) -> tuple[dict[str, str], ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(
        {"path": _text(pin.get("path")), "sha256": _text(pin.get("sha256"))} for pin in value if isinstance(pin, dict)
    )
