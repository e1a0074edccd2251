# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an operator reads: the plan, the refusals, the candidates and the outcome, as lines of text."""

from __future__ import annotations

import contextlib
import json
import shlex
from datetime import datetime, timezone
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils import _outcome, _rollout
from ansible_collections.connectin.rollback.plugins.module_utils._backup import FULL, size_text
from ansible_collections.connectin.rollback.plugins.module_utils._lock import UNREADABLE_RUN
from ansible_collections.connectin.rollback.plugins.module_utils._plan_database import loss_text


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return aligned lines, the header underlined; every cell is one line of text."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan as a table of hosts, what happens to the database, and the warnings."""
    lines: list[str] = []
    if plan["release"]:
        lines += [
            f"Rollback of {', '.join(plan['parts'])} to {plan['release']}"
            + (" (previous)" if plan["requested"] == "previous" else ""),
            "",
        ]
        rows = []
        for host, entry in plan["hosts"].items():
            for name, service in entry["services"].items():
                work = (
                    "switch"
                    if service["change"]
                    else ("stop, start" if entry["stop_writers"] and service["part"] == "application" else "none")
                )
                image = "here" if service["local"] else {"registry": "pull"}.get(plan["image_source"], "build")
                rows.append(
                    [
                        host,
                        name,
                        service["before"],
                        _health(service),
                        plan["release"],
                        service["digest"][7:19] or "-",
                        image,
                        work,
                    ]
                )
        lines += (
            table(["host", "service", "runs", "health", "target", "digest", "image", "change"], rows) if rows else []
        )
        lines += _batch_lines(plan)
        lines += _database_lines(plan)
    lines += [f"warning: {warning}" for warning in plan["warnings"]]
    return lines


def _batch_lines(plan: Mapping[str, Any]) -> list[str]:
    steps = _rollout.forecast(plan)
    if not plan["changed"]:
        return []
    lines = ["", f"plan {plan['digest']}"]
    if len(plan["hosts"]) > 1:
        rows = [[step["number"], step["name"], ", ".join(step["hosts"])] for step in steps]
        lines += table(["batch", "size", "hosts"], rows)
    drained = [host for host, entry in plan["hosts"].items() if entry["drained"]]
    if drained:
        lines.append(f"out of rotation now, and given back at the target: {', '.join(drained)}")
    return lines


def _health(service: Mapping[str, Any]) -> str:
    return str(service["health"] or service["state"])


def _database_lines(plan: Mapping[str, Any]) -> list[str]:
    database = plan["database"]
    if not database["needed"] or not database["reachable"]:
        return []
    moves = [*database["down"], *database["keep"]]
    if not moves:
        return ["", "database: no migration to undo; users notice nothing of it"]
    rows = [
        [
            choice["name"],
            choice["action"],
            "; ".join(loss_text(entry) for entry in choice["price"]) or "nothing",
            choice["reason"],
        ]
        for choice in moves
    ]
    lines = ["", *table(["migration", "goes", "loses", "because"], rows)]
    if database["price"]:
        lines.append(_backup_line(plan))
    if database["down"]:
        lines.append(
            "The writers are stopped while the database goes down: users get errors from then until the target answers."
        )
    return lines


def _backup_line(plan: Mapping[str, Any]) -> str:
    backup = plan["database"].get("backup")
    if not backup:
        return "No backup is made of what gets lost (rollback_backup is false)."
    size = "" if backup["bytes"] is None else f", {size_text(backup['bytes'])} at most"
    return (
        f"Backup: the whole database{size}, into {plan['runner']}:{backup['path']} while everything serves; and again "
        "of what gets lost, once the writers are stopped."
    )


def refusal_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return every reason not to start, with the next command of each, and the candidates when no release was found."""
    if not plan["refusals"]:
        return []
    lines = [
        f"Refused, and nothing was changed. {len(plan['refusals'])} reason{'s' if len(plan['refusals']) > 1 else ''}:"
    ]
    for entry in plan["refusals"]:
        lines += [f"  {entry['host']}: {entry['message']} [{entry['code']}]", f"      next: {entry['next']}"]
    if plan["candidates"]:
        lines += ["", *candidate_lines(plan["candidates"])]
    return lines


def candidate_lines(rows: Sequence[Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """Return the releases that can be named, newest first."""
    now = now or datetime.now(timezone.utc)
    cells = []
    for row in rows:
        state = [f"runs on {len(row['current'])}"] if row["current"] else []
        state += [f"{verdict} on {len(row[verdict])}" for verdict in ("good", "bad") if row[verdict]]
        undo = "not known" if row["undo"] is None else ", ".join(row["undo"]) or "none"
        cells.append(
            [
                row["release"],
                age(row["at"], now),
                ", ".join(state) or "a tag, never recorded",
                undo,
                "; ".join(row["loss"]) or "-",
            ]
        )
    return table(["release", "age", "state", "migrations to undo", "would be lost"], cells)


def age(at: str, now: datetime) -> str:
    """Return how long ago an ISO 8601 time was, in its largest whole unit; '-' when there is none."""
    if not at:
        return "-"
    seconds = (now - datetime.fromisoformat(at.replace("Z", "+00:00"))).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def outcome_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the last lines an operator sees."""
    times = ", ".join(f"{phase['name']} {phase['seconds']} s" for phase in result["phases"])
    lines = [headline(result)]
    if result["result"] != _outcome.REACHED:
        lines += [f"  {result['why']}"] if result["why"] else []
        rows = [
            [
                host,
                entry["before"],
                entry["target"],
                "; ".join(f"{name} {text}" for name, text in entry["now"].items()) or "-",
                _rotation(entry),
            ]
            for host, entry in result["hosts"].items()
        ]
        lines += table(["host", "before", "target", "now", "in rotation"], rows)
        for host, entry in result["hosts"].items():
            lines += [f"  {host}: {reason['phase']}: {reason['message']}" for reason in entry["reasons"]]
            if entry["next"] and not entry["reasons"]:
                # What follows is this host's.
                lines.append(f"  {host}: {'in' if entry['in_rotation'] else 'out of'} rotation as before the run")
            lines += [f"      next: {entry['next']}"] if entry["next"] else []
        lines += [f"  {reason['phase']}: {reason['message']}" for reason in result["fleet"]]
    if result["rolled_back"]:
        lines.append(f"Migrations rolled back: {', '.join(result['rolled_back'])}")
    if result["forward"]:
        lines.append("The database went forward again with the migrations of the release from before.")
    lines += [f"Lost, and in no backup: {loss_text(entry)}" for entry in result["not_back"]]
    lines += _backup_lines(result)
    lines += [f"Time: {times}"] if times else []
    return lines


def _rotation(entry: Mapping[str, Any]) -> str:
    """Return whether users reach a host: ``yes``, ``no``, or that the load balancer did not say."""
    return "not known" if entry["unsure"] else "yes" if entry["in_rotation"] else "no"


def headline(result: Mapping[str, Any]) -> str:
    """Return in one line which release serves users now, and where."""
    hosts = result["hosts"]
    serving = [host for host, entry in hosts.items() if entry["in_rotation"] and not entry["unsure"]]
    others = [host for host, entry in hosts.items() if not entry["in_rotation"]]
    before = ", ".join(dict.fromkeys(entry["before"] for host, entry in hosts.items() if host in serving))
    held = f" Out of rotation: {', '.join(others)}." if others else ""
    if result["result"] == _outcome.REACHED:
        return f"Rolled back: {result['release']} serves on {', '.join(hosts)}."
    if result["result"] == _outcome.HELD:
        return f"HELD: {result['release']} serves on {', '.join(serving)}, and not on every host.{held}"
    if result["result"] == _outcome.RESTORED:
        return f"NOT rolled back to {result['release']}: RESTORED, {before} serves again on {', '.join(serving)}.{held}"
    if result["result"] == _outcome.FAILED:
        return f"NOT rolled back to {result['release']}: no host was switched.{held}"
    return (
        f"NOT rolled back to {result['release']}: UNRESOLVED, nothing proves that one release serves everywhere.{held}"
    )


def _backup_lines(result: Mapping[str, Any]) -> list[str]:
    made = result.get("backups") or ()
    lines = [f"Backup: {entry['host']}:{entry['file']} ({size_text(entry['size'])})" for entry in made]
    # Until something was lost there is nothing to put back.
    if made and result["rolled_back"]:
        lines.append(f"To put back what was lost: {restore_command(made[0]['id'])}   (first read docs/recovery.md)")
    return lines


def restore_command(backup_id: str) -> str:
    """Return what to type to put a backup back."""
    return f"ansible-playbook restore_backup.yml -e rollback_backup_id={backup_id}"


def backup_list(readings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every backup with the ``host`` that has it, newest first, from database_backup_info of every host."""
    found = [{**entry, "host": host} for host, reading in readings.items() for entry in (reading.get("backups") or ())]
    return sorted(found, key=lambda entry: (entry["at"], entry["id"]), reverse=True)


def backup_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the backups as a table, and what to type."""
    if not found:
        return ["There is no backup: only a rollback that loses data makes one."]
    cells = []
    for entry in found:
        dumps = ", ".join(f"{dump['kind']} {size_text(dump['size'])}" for dump in entry["dumps"])
        moved = f"{entry['release_from'] or '?'} -> {entry['release_to'] or '?'}"
        cells.append(
            [
                entry["id"],
                entry["at"] or "-",
                moved,
                dumps or "none",
                entry["host"],
                "; ".join(entry["problems"]) or "-",
            ]
        )
    return [
        *table(["backup", "made", "rollback", "dumps", "host", "wrong with it"], cells),
        f"next: {restore_command('<backup>')}   (docs/recovery.md)",
    ]


def restore_lines(result: Mapping[str, Any], predicted: bool = False) -> list[str]:
    """Return what went back from a backup, or would, and what did not."""
    backup = result["backup"]
    did = "Would put back" if predicted else "Put back"
    if backup["kind"] == FULL:
        lines = [f"{did} the whole database as it was at {backup['at']}, from the backup {backup['id']}:"]
    else:
        lines = [f"{did} what the rollback lost, from the backup {backup['id']}:"]
    lines += [f"  {name}: {number}" for name, number in result["restored"].items()] or ["  nothing"]
    lines += [f"  not: {text}" for text in result["left"]]
    if backup["kind"] == FULL and not predicted:
        release = backup["release_from"] or "the release that was left"
        lines.append(f"next: start {release}, whose schema the database has again")
    return lines


def locked_by(locks: Mapping[str, Mapping[str, Any]], run_id: str) -> list[str]:
    """Return the hosts whose lock is that of a run; "unreadable" stands for a lock that cannot be read.

    ``locks`` maps hosts to what rollback_lock says of breaking theirs: ``removed`` is the lock, None without one.
    """
    return [
        host
        for host, said in locks.items()
        if said.get("removed") and (said["removed"]["run_id"] or UNREADABLE_RUN) == run_id
    ]


def lock_lines(locks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return who holds the lock of which host, and what to type."""
    held = {host: said["removed"] for host, said in locks.items() if said.get("removed")}
    if not held:
        return ["No host is locked."]
    cells = [
        [
            host,
            lock["run_id"] or UNREADABLE_RUN,
            lock["owner"] or "-",
            lock["since"] or "-",
            lock["expires"] or "-",
            lock["reason"],
        ]
        for host, lock in held.items()
    ]
    lines = table(["host", "run", "owner", "since", "expires", "reason"], cells)
    for run_id in dict.fromkeys(row[1] for row in cells):
        if run_id != UNREADABLE_RUN:
            lines.append(f"next: take the run up again with the same command and -e rollback_resume={run_id}")
        lines.append(f"or, when that run is given up: ansible-playbook lock.yml -e rollback_lock_break={run_id}")
    return lines


def list_lines(lists: Mapping[str, Any]) -> list[str]:
    """Return one line for each variable that has to be a list and was given as a text, with what to write instead."""
    lines = []
    for name, value in lists.items():
        if not isinstance(value, str):
            continue
        if name.endswith("_command"):
            # Its value is that of one host by now, and would be wrong for all others.
            then = f"write it as a list of words where it is set: {name}: [first, second]"
        else:
            then = "-e " + shlex.quote(json.dumps({name: _items(value)}))
        lines.append(f"{name} is a list, and was given as a text; next: {then}")
    return lines


def _items(text: str) -> list[Any]:
    """Return what somebody meant who wrote a list as a text: JSON, or what stands between commas."""
    with contextlib.suppress(ValueError):
        meant = json.loads(text)
        return meant if isinstance(meant, list) else [str(meant)]
    return [item.strip() for item in text.split(",") if item.strip()]


def freeze_lines(
    ledgers: Mapping[str, Mapping[str, Any]], locks: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Return why deploys have to wait, [] when they need not.

    ``ledgers`` maps hosts to what release_ledger says, ``locks`` to what rollback_lock says of breaking theirs.
    """
    if any(said.get("removed") for said in (locks or {}).values()):
        return ["A rollback is at work, or was interrupted:", *lock_lines(locks or {})]
    frozen = {host: said["frozen"] for host, said in ledgers.items() if said.get("frozen")}
    if not frozen:
        return []
    cells = [[host, entry["release"], entry["at"], entry["who"], entry["why"] or "-"] for host, entry in frozen.items()]
    return [
        "Deploys are frozen since a rollback:",
        *table(["host", "rolled back to", "at", "by", "why"], cells),
        "next: when the release that was left is repaired: ansible-playbook deploy_freeze.yml -e rollback_freeze=lift",
    ]


def report(result: Mapping[str, Any], plan: Mapping[str, Any], who: str, why: str, finished: str) -> str:
    """Return the incident report of a run in Markdown."""
    reached = result["result"] == _outcome.REACHED
    lines = [
        f"# Rollback to {result['release']}: {'done' if reached else 'NOT reached'}",
        "",
        headline(result),
        "",
        f"- run: `{result['run_id']}`, finished {finished}",
        f"- who: {who or 'not named'}",
        f"- why: {why or 'not given (-e rollback_reason=…)'}",
        f"- parts: {', '.join(plan['parts'])}",
        "",
        "## Hosts",
        "",
        "| host | before | now | in rotation |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {host} | {entry['before']} | {'; '.join(f'{n} {t}' for n, t in entry['now'].items())} | "
        f"{_rotation(entry)} |"
        for host, entry in result["hosts"].items()
    ]
    lines += ["", "## Database", ""]
    lines += [f"- rolled back: `{name}`" for name in result["rolled_back"]] or ["- no migration went down"]
    lines += [f"- kept: `{choice['name']}` ({choice['reason']})" for choice in plan["database"]["keep"]]
    lines += [
        f"- lost, with consent: {loss_text(entry)}" for entry in plan["database"]["price"] if result["rolled_back"]
    ]
    lines += [f"- lost, and in no backup: {loss_text(entry)}" for entry in result["not_back"]]
    made = result.get("backups") or ()
    if made:
        lines += ["", "## Backup", "", "| file | size | SHA-256 |", "|---|---|---|"]
        lines += [
            f"| {entry['host']}:`{entry['file']}` | {size_text(entry['size'])} | `{entry['sha256']}` |"
            for entry in made
        ]
        lines += ["", f"To put back what was lost: `{restore_command(made[0]['id'])}`"]
    lines += [
        "",
        "## Time",
        "",
        "| phase | seconds |",
        "|---|---|",
        *[f"| {phase['name']} | {phase['seconds']} |" for phase in result["phases"]],
    ]
    lines += [
        "",
        "## What is left for people",
        "",
        "- [ ] error rates are back at their baseline",
        "- [ ] stakeholders know, with an estimate for the fix",
        "- [ ] root cause found and written down",
        "- [ ] a regression test for it",
        "",
    ]
    return "\n".join(lines)
