# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an operator reads: the plan, the refusals, the candidates and the outcome, as lines of text."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils._backup import FULL, size_text
from ansible_collections.connectin.rollback.plugins.module_utils._plan import loss_text
from ansible_collections.connectin.rollback.plugins.module_utils._stack import release_of


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
        lines += _database_lines(plan)
    lines += [f"warning: {warning}" for warning in plan["warnings"]]
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


def outcome(
    plan: Mapping[str, Any],
    failures: Mapping[str, Sequence[Mapping[str, str]]],
    now: Mapping[str, Mapping[str, Any]],
    phases: Sequence[Mapping[str, Any]],
    rolled_back: Sequence[str],
    backups: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what came of the run: ``reached`` or ``failed``, per host what runs now and the next command.

    ``failures`` maps hosts to ``{phase, message}``; ``now`` maps hosts to the last stack_info reading, {} when lost.
    """
    hosts = {}
    for host, entry in plan["hosts"].items():
        reasons = list(failures.get(host) or ())
        services = (now.get(host) or {}).get("services") or {}
        running = {name: _running(services.get(name)) for name in entry["services"]}
        hosts[host] = {
            "before": entry["before"],
            "target": plan["release"],
            "now": running,
            "reasons": reasons,
            "next": next_command(plan, host, entry, reasons, services, rolled_back) if reasons else "",
        }
    fleet = list(failures.get("fleet") or ())
    reached = not fleet and not any(host["reasons"] for host in hosts.values())
    return {
        "result": "reached" if reached else "failed",
        "release": plan["release"],
        "run_id": plan["run_id"],
        "hosts": hosts,
        "fleet": fleet,
        "rolled_back": list(rolled_back),
        "backups": [
            {"host": plan["runner"], **{key: made[key] for key in ("id", "kind", "file", "size", "sha256")}}
            for made in backups
        ],
        "phases": durations(phases),
    }


def _running(service: Mapping[str, Any] | None) -> str:
    running = (service or {}).get("running")
    if service is None:
        return "not known"
    if not running:
        return "no container"
    health = (service.get("health") or {}).get("status") or running.get("health") or "-"
    return f"{release_of(service)} {running.get('state')} {health}"


def next_command(
    plan: Mapping[str, Any],
    host: str,
    entry: Mapping[str, Any],
    reasons: Sequence[Mapping[str, str]],
    services: Mapping[str, Any],
    rolled_back: Sequence[str],
) -> str:
    """Return what to type for one host that did not get there."""
    again = f"ansible-playbook {playbook(plan['parts'])} -e release={plan['release']}"
    if plan["policy"] != "auto":
        again += f" -e rollback_migrations={plan['policy']}"
    if plan["excluded"]:
        again += f" -e rollback_exclude={','.join(plan['excluded'])}"
    if plan["database"]["price"] and not rolled_back:
        again += f" -e rollback_confirm_data_loss={plan['release']}"
    if not services:
        return f"ssh to {host}; when it answers: {again}"
    phase = reasons[-1].get("phase")
    if phase in ("Plan", "Prepare"):
        return f"nothing users see was changed; mend the cause, then: {again}"
    if phase == "Migrate down" and not rolled_back:
        return f"mend the cause, then: {again}"
    logs = f"docker compose --project-directory {entry['project_dir']} logs --tail 100"
    return f"ansible {host} -b -a '{logs}'; then: {again}; by hand: docs/recovery.md"


def playbook(parts: Sequence[str]) -> str:
    """Return the playbook that rolls back exactly these parts."""
    return f"rollback_{parts[0]}.yml" if len(parts) == 1 else "rollback_full.yml"


def durations(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ``{name, seconds}`` of each phase from ``{name, at}`` marks (epoch seconds); the last mark closes."""
    return [
        {"name": mark["name"], "seconds": round(float(after["at"]) - float(mark["at"]), 1)}
        for mark, after in zip(phases, phases[1:])
    ]


def outcome_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the last lines an operator sees."""
    times = ", ".join(f"{phase['name']} {phase['seconds']} s" for phase in result["phases"])
    if result["result"] == "reached":
        lines = [f"Rolled back: {result['release']} serves on {', '.join(result['hosts'])}."]
    else:
        lines = [f"NOT rolled back to {result['release']}: state of every host and its next command:"]
        rows = [
            [host, entry["before"], entry["target"], "; ".join(f"{name} {text}" for name, text in entry["now"].items())]
            for host, entry in result["hosts"].items()
        ]
        lines += table(["host", "before", "target", "now"], rows)
        for host, entry in result["hosts"].items():
            lines += [f"  {host}: {reason['phase']}: {reason['message']}" for reason in entry["reasons"]]
            lines += [f"      next: {entry['next']}"] if entry["next"] else []
        lines += [f"  {reason['phase']}: {reason['message']}" for reason in result["fleet"]]
    if result["rolled_back"]:
        lines.append(f"Migrations rolled back: {', '.join(result['rolled_back'])}")
    lines += _backup_lines(result)
    lines += [f"Time: {times}"] if times else []
    return lines


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


def report(result: Mapping[str, Any], plan: Mapping[str, Any], who: str, why: str, finished: str) -> str:
    """Return the incident report of a run in Markdown."""
    reached = result["result"] == "reached"
    lines = [
        f"# Rollback to {result['release']}: {'done' if reached else 'NOT reached'}",
        "",
        f"- run: `{result['run_id']}`, finished {finished}",
        f"- who: {who or 'not named'}",
        f"- why: {why or 'not given (-e rollback_reason=…)'}",
        f"- parts: {', '.join(plan['parts'])}",
        "",
        "## Hosts",
        "",
        "| host | before | now |",
        "|---|---|---|",
    ]
    lines += [
        f"| {host} | {entry['before']} | {'; '.join(f'{n} {t}' for n, t in entry['now'].items())} |"
        for host, entry in result["hosts"].items()
    ]
    lines += ["", "## Database", ""]
    lines += [f"- rolled back: `{name}`" for name in result["rolled_back"]] or ["- no migration went down"]
    lines += [f"- kept: `{choice['name']}` ({choice['reason']})" for choice in plan["database"]["keep"]]
    lines += [
        f"- lost, with consent: {loss_text(entry)}" for entry in plan["database"]["price"] if result["rolled_back"]
    ]
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
