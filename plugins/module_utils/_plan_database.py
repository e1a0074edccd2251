# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What happens to each migration, what that loses, and what keeps the database from going down. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

from ansible_collections.connectin.rollback.plugins.module_utils._migration_policy import Choice, choose
from ansible_collections.connectin.rollback.plugins.module_utils._plan_options import Options, first_line, refusal
from ansible_collections.connectin.rollback.plugins.module_utils._stack import is_target, release_before


def plan_database(
    good: Mapping[str, Mapping[str, Any]],
    database: Mapping[str, Any] | None,
    release: str,
    options: Options,
    refusals: list[dict[str, str]],
) -> dict[str, Any]:
    """Return what happens to each migration; refusals are added to the list."""
    plan: dict[str, Any] = {
        "reachable": True,
        "needed": database is not None,
        "down": [],
        "keep": [],
        "price": [],
        # What is dumped before data is lost: {path, bytes, client_version}, None where nothing is.
        "backup": None,
        "warnings": [],
        "before": [],
        "rolled_back": [],
        "target_migrations": None,
    }
    if database is None:
        return plan
    target_known = target_migrations(good, release)
    plan["target_migrations"] = target_known
    if database.get("error"):
        _unreachable_database(good, database, release, options, target_known, plan, refusals)
        return plan
    info = database["info"]
    plan["before"] = list(info["applied"])
    plan["rolled_back"] = [row["name"] for row in info["migrations"] if row["state"] == "rolled_back"]
    if not release:
        return plan
    if not info.get("initialized", True):
        refusals.append(
            refusal(
                options.runner,
                "history_missing",
                "the database has no _prisma_migrations table where Prisma looks for it",
                "check DATABASE_URL and its ?schema=, or set rollback_migrations_path: ''",
            )
        )
        return plan
    if target_known is None:
        refusals.append(
            refusal(
                options.runner,
                "target_unknown",
                f"nobody knows which migrations {release} contains: its tag is on no host and no ledger lists it",
                "git -C <project> fetch --tags on any host",
            )
        )
        return plan
    rows = {migration["name"]: migration for migration in info["migrations"]}
    pending = [name for name in target_known if rows.get(name, {}).get("state") not in ("applied", "failed")]
    if pending:
        refusals.append(
            refusal(
                options.runner,
                "forward",
                f"{release} needs migrations that are not applied ({', '.join(pending)}): going there is a deploy, "
                "not a rollback",
                "deploy it with your pipeline",
            )
        )
    choices = choose([rows[name] for name in info["unknown_to_target"]], options.policy)
    down = [choice for choice in choices if choice.action == "down"]
    if options.failed == "mark_only":
        # No script runs, so nothing is lost.
        down = [replace(choice, price=()) if _failed(rows[choice.name]) else choice for choice in down]
    plan["down"] = [choice.as_dict() for choice in down]
    plan["keep"] = [choice.as_dict() for choice in choices if choice.action == "keep"]
    plan["price"] = [dict(entry, migration=choice.name) for choice in down for entry in choice.price]
    if "database" in options.parts:
        for choice in down:
            refusals += _migration_refusals(rows[choice.name], options)
        refusals += _consent(plan["price"], release, options)
        refusals += _backup(info.get("backup") or {}, plan, options)
    refusals += _boundary(good, down, release, options)
    others = sorted(set(options.writers) - {options.services["application"]})
    if down and others:
        refusals.append(
            refusal(
                "fleet",
                "writers_unsupported",
                f"a migration goes down, and writers other than the API ({', '.join(others)}) would be stopped and not "
                "started again: that is not supported",
                'stop them yourself, add -e \'{"rollback_writer_services": ["'
                + options.services["application"]
                + "\"]}', and start them with the target",
            )
        )
    if not info.get("parser") and choices:
        plan["warnings"].append(
            f"pglast is not on {options.runner}: no migration counts as additive, and what would be lost is not counted"
        )
    return plan


def _backup(ready: Mapping[str, Any], plan: dict[str, Any], options: Options) -> list[dict[str, str]]:
    """Plan the backup where data is lost; everything that would keep it from being made is a refusal."""
    if not plan["price"] or not options.backup:
        return []
    plan["backup"] = {key: ready.get(key) for key in ("path", "bytes", "client_version")}
    plan["warnings"] += ready.get("warnings") or ()
    return [
        refusal(options.runner, problem["code"], problem["message"], problem["next"])
        for problem in ready.get("problems") or ()
    ]


def _failed(row: Mapping[str, Any]) -> bool:
    return row.get("state") == "failed"


def _migration_refusals(row: Mapping[str, Any], options: Options) -> list[dict[str, str]]:
    """Everything that keeps one migration from going down."""
    if _failed(row) and options.failed == "mark_only":
        return []
    found = [
        refusal(options.runner, problem["code"], problem["message"], problem["next"])
        for problem in row.get("problems") or ()
        if problem["code"] != "failed" or options.failed == "fail"
    ]
    if row.get("outside_transaction") and options.transaction != "each":
        found.append(
            refusal(
                options.runner,
                "transaction",
                f"the down.sql of {row['name']} starts with statements that run outside a transaction, so the database "
                "cannot go down in one",
                "add -e rollback_transaction=each, which commits each migration by itself",
            )
        )
    return found


def _unreachable_database(
    good: Mapping[str, Mapping[str, Any]],
    database: Mapping[str, Any],
    release: str,
    options: Options,
    target_known: Sequence[str] | None,
    plan: dict[str, Any],
    refusals: list[dict[str, str]],
) -> None:
    """Stop, unless the ledger says that both releases share their last migration: then the database is not touched.

    The release that runs is the one of the containers: a deploy may have gone unrecorded. A database of which something
    else is wrong, a missing driver or a folder that may not be read, always stops it.
    """
    plan["reachable"] = False
    code = str(database.get("code") or "database_unreadable")
    running = set()
    for stack in good.values():
        before = release_before(stack) if code == "database_unreachable" else ""
        entry = next((r for r in stack["ledger"]["releases"] if r["release"] == before), None)
        running.add(tuple(entry["migrations"]) if entry and entry.get("migrations") is not None else None)
    same = (
        len(running) == 1
        and None not in running
        and target_known is not None
        and set(next(iter(running))) == set(target_known)
    )
    if release and same and "application" in options.parts:
        plan["warnings"].append(
            f"the database cannot be read ({first_line(database['error'])}); {release} and the running release share "
            "their last migration, so it is not touched"
        )
        return
    refusals.append(
        refusal(
            options.runner or "fleet",
            code,
            first_line(database["error"]),
            str(
                database.get("next")
                or "check that the database runs and that DATABASE_URL in .env is right; "
                "a rollback does not cure a database that is down"
            ),
        )
    )


def _consent(price: Sequence[Mapping[str, Any]], release: str, options: Options) -> list[dict[str, str]]:
    if not price or options.consent == release:
        return []
    lost = "; ".join(loss_text(entry) for entry in price)
    said = f", and the consent given is for {options.consent!r}" if options.consent else ""
    return [
        refusal(
            "database",
            "data_loss",
            f"going to {release} loses data: {lost}{said}",
            f"if that may be lost: -e rollback_confirm_data_loss={release}",
        )
    ]


def loss_text(entry: Mapping[str, Any]) -> str:
    """Return one loss as an operator reads it: ``3 rows of public.reactions (drop_table)``."""
    count = entry.get("count")
    amount = "an unknown number of rows" if count is None else f"{count} row{'' if count == 1 else 's'}"
    return f"{amount} of {entry.get('object') or 'unknown'} ({str(entry.get('kind') or 'unknown').replace('_', ' ')})"


def _boundary(
    good: Mapping[str, Mapping[str, Any]], down: Sequence[Choice], release: str, options: Options
) -> list[dict[str, str]]:
    """Refuse a part rollback that would leave application and schema of different releases."""
    if not down or set(options.parts) >= {"application", "database"}:
        return []
    full = f"ansible-playbook rollback_full.yml -e release={release}"
    if "database" not in options.parts:
        return [
            refusal(
                "fleet",
                "boundary",
                f"{release} needs the schema without {', '.join(c.name for c in down)}: {down[-1].reason}",
                full,
            )
        ]
    name = options.services["application"]
    ahead = [
        host
        for host, stack in good.items()
        if "application" in options.components[host] and _runs_other(stack["services"].get(name))
    ]
    if ahead:
        return [
            refusal(
                "fleet",
                "boundary",
                f"{name} on {', '.join(ahead)} does not run {release} and needs the migrations that would go down",
                full,
            )
        ]
    return []


def _runs_other(service: Mapping[str, Any] | None) -> bool:
    """Return whether a service runs, or would by its next start, another release than the target."""
    if not service:
        return False
    if service.get("running"):
        return not is_target(service)
    return bool(service.get("configured_image")) and service["configured_image"] != service.get("target_image")


def target_migrations(good: Mapping[str, Mapping[str, Any]], release: str) -> list[str] | None:
    """Return the names the target contains: from a checkout that has its commit, else from a ledger, else None."""
    for stack in good.values():
        if stack["git"].get("target_migrations") is not None:
            return list(stack["git"]["target_migrations"])
    for stack in good.values():
        for entry in stack["ledger"]["releases"]:
            if entry["release"] == release and entry.get("migrations") is not None:
                return list(entry["migrations"])
    return None
