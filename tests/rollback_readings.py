"""Readings as stack_info and prisma_migration_info return them, small enough to be changed in one line by a test."""

from __future__ import annotations

from copy import deepcopy

INIT, POSTS, RENAME, REACTIONS = "20250106_init", "20250201_posts", "20250303_rename", "20250304_reactions"
MIGRATIONS = {"v1.0.0": [INIT], "v1.1.0": [INIT, POSTS], "v1.2.0": [INIT, POSTS, RENAME, REACTIONS]}
MIGRATIONS["v1.3.0"] = MIGRATIONS["v1.2.0"]
REGISTRY = "registry.example:5000"
PORTS = {"api": 5007, "web": 3111}


def digest(service: str, release: str) -> str:
    """Return the digest that an image has everywhere."""
    return "sha256:" + (service + release).encode().hex().ljust(64, "0")


def image(service: str, release: str) -> str:
    return f"{REGISTRY}/connectin/{service}:{release}"


def commit(release: str) -> str:
    return release.encode().hex().ljust(40, "0")


def container(service: str, release: str, **changes) -> dict:
    """Return a running container of a release."""
    return {
        "container_id": "c" * 64,
        "name": f"connectin-{service}-1",
        "state": "running",
        "health": "healthy",
        "restarts": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "image": image(service, release),
        "image_id": "sha256:" + "1" * 64,
        "repo_digests": [f"{REGISTRY}/connectin/{service}@{digest(service, release)}"],
        **changes,
    }


def recorded(release: str, verdict: str = "good", **changes) -> dict:
    """Return a release as the ledger lists it."""
    return {
        "release": release,
        "verdict": verdict,
        "at": f"2026-01-0{int(release[3]) + 1}T12:00:00Z",
        "who": "alex",
        "services": {},
        "migrations": MIGRATIONS.get(release),
        **changes,
    }


def stack(runs: str = "v1.2.0", target: str = "v1.1.0", services: tuple[str, ...] = ("api", "web")) -> dict:
    """Return what stack_info reads on a host that runs one release and can go to another."""
    return {
        "changed": False,
        "refusals": [],
        "target": target,
        "engine": {"version": "28.0.0", "root_dir": "/var/lib/docker", "free_mb": 20000},
        "compose": {"version": "2.40.0", "project": "connectin", "files": [], "services": list(services)},
        "services": {
            name: {
                "configured_image": image(name, runs),
                "target_image": image(name, target) if target else "",
                "target_digest": digest(name, target) if target else "",
                "target_local": False,
                "running": container(name, runs),
                "build_id": f"build-{runs}" if name == "web" else "",
                "artifact": None,
                "health": {"status": 503 if runs == "v1.2.0" and name == "api" else 200, "body": None, "error": ""},
            }
            for name in services
        },
        "containers": {name: [f"172.18.0.{number}"] for number, name in enumerate(services, 2)},
        "git": {
            "head": commit(runs),
            "head_tags": [runs],
            "branch": "",
            "tags": ["v1.3.0", "v1.2.0", "v1.1.0", "v1.0.0"],
            "local_changes": [],
            "pins": [],
            "target_commit": commit(target) if target else "",
            "target_local": bool(target),
            "target_on_remote": None,
            "target_migrations": MIGRATIONS.get(target),
            "head_migrations": MIGRATIONS.get(runs),
            "smoke": True,
        },
        "ledger": {
            "releases": [recorded("v1.2.0", "bad"), recorded("v1.1.0"), recorded("v1.0.0")],
            "current": runs,
            "previous": "v1.1.0",
        },
        "lock": {"held": False, "run_id": "", "owner": "", "reason": "", "since": "", "expires": ""},
        "env": {"sha256": "0" * 64, "differs": []},
        "clock": 1767225600.0,
    }


def kept_build(reading: dict, current: str, target_build_id: str, served: bool = True) -> dict:
    """Return a reading whose frontend is a kept build on a runtime image."""
    web = reading["services"]["web"]
    web["artifact"] = {"current": current, "target_build_id": target_build_id, "target_served": served}
    web["running"] = container("web", current, image=f"{REGISTRY}/connectin/node:20", repo_digests=[])
    web.update(configured_image=f"{REGISTRY}/connectin/node:20", target_image="", target_digest="")
    return reading


def migration(name: str, **changes) -> dict:
    """Return an applied migration that only adds."""
    return {
        "name": name,
        "state": "applied",
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:01Z",
        "rolled_back_at": None,
        "checksum_ok": True,
        "baselined": False,
        "source_dir": f"/srv/connectin/apps/api/prisma/migrations/{name}",
        "has_down": True,
        "known_to_target": None,
        "additive": True,
        "reasons": [],
        "directive": "",
        "loss": [],
        "problems": [],
        **changes,
    }


def loss(count: int | None = 3, kind: str = "drop_table", thing: str = "public.reactions") -> dict:
    return {"kind": kind, "object": thing, "count": count, "text": f"{kind} {thing}"}


RENAMED = migration(RENAME, additive=False, reasons=["it renames the column body of posts"])
REACTED = migration(REACTIONS, loss=[loss()])


def history(*migrations: dict, target: str = "v1.1.0", **changes) -> dict:
    """Return ``{error, info}`` with a history as prisma_migration_info reads it; by default that of v1.2.0."""
    rows = deepcopy(list(migrations) or [migration(INIT), migration(POSTS), RENAMED, REACTED])
    known = set(MIGRATIONS.get(target) or ())
    for row in rows:
        row["known_to_target"] = row["name"] in known
    live = [row["name"] for row in rows if row["state"] in ("applied", "failed")]
    info = {
        "changed": False,
        "initialized": True,
        "schema": "public",
        "server_version": "17.5",
        "database": "connectin",
        "parser": "pglast 8.8",
        "migrations": rows,
        "applied": [row["name"] for row in rows if row["state"] == "applied"],
        "unknown_to_target": [name for name in reversed(live) if name not in known],
        "sessions": [],
        "lock": {"held": False, "holders": []},
        **changes,
    }
    return {"error": "", "info": info}
