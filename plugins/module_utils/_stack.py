# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stack on one host: what its readings mean, and why a rollback cannot start there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _env_file, _git, _image_reference, _lock

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONEOFF_LABEL = "com.docker.compose.oneoff"
WORKING_DIR_LABEL = "com.docker.compose.project.working_dir"

# The parts of a stack, each of which can go back by itself.
PARTS = ("application", "database", "frontend")

# Of several containers of one service the liveliest tells how it does.
_STATES = ("running", "restarting", "paused", "created", "exited", "removing", "dead")


@dataclass(frozen=True)
class Refusal:
    """One reason not to start: a slug, what was found, and the next command to type."""

    code: str
    message: str
    next: str


@dataclass(frozen=True)
class Project:
    """A Compose project as rendered: ``images`` maps every service to its image, '' where it is only built;
    ``definitions`` to what decides how its container can be replaced, as stack_info returns it."""

    name: str
    images: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RegistryAnswer:
    """What a registry said of a tag: a digest, or why there is none (``missing``, ``denied``, ``unreachable``)."""

    digest: str = ""
    problem: str = ""
    message: str = ""


@dataclass(frozen=True)
class TargetImage:
    """The image to go to. ``local`` is proved by digest or image id, or by its tag where nothing else is known."""

    digest: str
    local: bool
    refusals: tuple[Refusal, ...] = ()


def is_release_name(name: str) -> bool:
    """Whether a name can be a git tag and an image tag at once."""
    return bool(_image_reference.TAG.fullmatch(name)) and ".." not in name and not name.endswith((".", ".lock"))


def read_project(rendered: str) -> Project:
    """The project in the output of ``docker compose config --format json``. Raises ValueError when it is none."""
    config = json.loads(rendered)
    services = config.get("services") or {}
    return Project(
        str(config.get("name") or ""),
        {name: str((svc or {}).get("image") or "") for name, svc in services.items()},
        {name: {**definition(svc or {}), "callers": callers(name, services)} for name, svc in services.items()},
    )


def callers(service: str, services: Mapping[str, Any]) -> list[str]:
    """The other services whose environment has a URL with this one's name as its host, sorted."""
    url = re.compile(rf"://(?:[^/@\s]*@)?{re.escape(service)}(?![\w.-])")
    return sorted(
        name
        for name, other in services.items()
        if name != service
        and any(url.search(str(value)) for value in ((other or {}).get("environment") or {}).values())
    )


def definition(service: Mapping[str, Any]) -> dict[str, Any]:
    """What decides whether a second container of a service can run, or be made, beside the first."""
    ports = [port for port in service.get("ports") or () if isinstance(port, Mapping)]
    number = (service.get("deploy") or {}).get("replicas", service.get("scale"))
    return {
        "published": [str(port["published"]) for port in ports if port.get("published")],
        "host_network": service.get("network_mode") == "host",
        "container_name": str(service.get("container_name") or ""),
        "replicas": int(1 if number is None else number),
        "read_only": bool(service.get("read_only")),
    }


def compose_refusal(stderr: str, env_text: str, retry: str) -> Refusal:
    """Why ``docker compose config`` failed; ``retry`` is the command that shows it in full."""
    if re.search(r"unknown (shorthand )?flag|is not a docker command|unknown command: docker compose", stderr):
        return Refusal(
            "compose_missing_plugin",
            "the docker command has no compose plugin",
            "apt-get install docker-compose-plugin (Docker's packages), or docker-compose (Debian 13 and newer)",
        )
    # Warnings come first and are not the reason.
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "level=warning" not in line]
    said = _env_file.redacted("; ".join(lines[:2]) or "it said nothing", env_text)
    return Refusal("compose_invalid", f"docker compose cannot read the project: {said}", retry)


def engine_refusal(kind: str, message: str, user: str) -> Refusal:
    """Why the engine cannot be read."""
    if kind == "permission":
        return Refusal(
            "docker_permission",
            f"user {user} may not use the Docker Engine: {message}",
            f"run it with become (-b), or: sudo usermod -aG docker {user}",
        )
    if kind == "remote":
        return Refusal("engine_remote", f"{message}; the stack's engine is read on its own host", "unset DOCKER_HOST")
    if kind == "http":
        return Refusal(
            "engine_error", f"the Docker Engine answered with an error: {message}", "journalctl -u docker -n 50"
        )
    return Refusal("engine_down", f"the Docker Engine does not answer: {message}", "sudo systemctl start docker")


def lock_refusal(lock: _lock.Lock) -> Refusal:
    """Another run is at work, or left its lock behind."""
    if not lock.run_id:
        return Refusal(
            "lock_held",
            "the rollback lock is there but cannot be read, so nobody can tell which run holds it",
            f"make sure that no run is at work, then: {_lock.breaking_command(lock)}",
        )
    return Refusal(
        "lock_held",
        f"{lock.owner or 'an unnamed owner'} holds the rollback lock since {lock.since} until {lock.expires}, run "
        f"{lock.run_id}: {lock.reason or 'no reason given'}",
        f"wait for that run to end; if it died: -e rollback_resume={lock.run_id} "
        f"(or give it up with {_lock.breaking_command(lock)} )",
    )


def kept_plan(text: str | None) -> dict[str, Any] | None:
    """The plan that an earlier try of a run kept; None where there is none, or it was cut off."""
    try:
        plan = json.loads(text or "")
        # Written whole or not at all; anything else is no plan of this version.
        return plan if {"hosts", "database"} <= plan.keys() and "undone" in plan["database"] else None
    except (ValueError, AttributeError, TypeError):
        return None


def service_refusal(name: str, found: Sequence[str]) -> Refusal:
    """The project lacks a service; one behind an inactive profile is lacking too."""
    message = f"the Compose project has no service {name}; found {', '.join(found) or 'none'}"
    return Refusal(
        "service_missing", message, "docker compose config --services; correct the service's name in the inventory"
    )


def image_unset_refusal(name: str) -> Refusal:
    """There is no repository to pull the target from."""
    message = f"service {name} has no image: in the compose files, so there is nothing to pull"
    return Refusal("image_unset", message, "write image: <repository>:<tag> there, or set rollback_image_source=build")


def no_previous_refusal(left: str, releases: Sequence[Mapping[str, Any]]) -> Refusal:
    """No release but the one that runs was ever called good here."""
    known = ", ".join(f"{entry['release']} ({entry['verdict']})" for entry in releases[:5]) or "no release at all"
    message = f"the ledger has no good release other than {left or 'the one that runs'}; it knows {known}"
    return Refusal("no_previous", message, "name the release: -e release=<tag>")


def malformed_refusal(name: str) -> Refusal:
    """The name cannot be a tag of both git and a registry."""
    message = f"{name!r} cannot be a release: tags are letters, digits, '.', '_' and '-', at most 128 of them"
    return Refusal("tag_malformed", message, "-e release=<tag>")


def tag_refusal(tag: str, tags: Sequence[str], project_dir: str) -> Refusal:
    """Neither the checkout nor its remote has the tag."""
    message = (
        f"neither the checkout nor its remote has the tag {tag}; the newest tags are {', '.join(tags[:5]) or 'none'}"
    )
    return Refusal("tag_unknown", message, f"git -C {project_dir} ls-remote --tags origin")


def migrations_refusal(tag: str, path: str, project_dir: str) -> Refusal:
    """The target has no migrations where they are looked for, which is not the same as having none."""
    message = f"{tag} has no directory {path}, so nobody can tell which migrations it knows"
    return Refusal(
        "migrations_missing",
        message,
        f"git -C {project_dir} ls-tree -rd --name-only {tag}; set rollback_migrations_path, '' where there are none",
    )


def changes_refusal(paths: Sequence[str], project_dir: str) -> Refusal:
    """Somebody changed tracked files, which the next checkout would meet."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    message = f"the checkout has local changes in {', '.join(paths[:5])}{more}"
    return Refusal(
        "local_changes", message, f"git -C {project_dir} diff; keep them aside with: git -C {project_dir} stash"
    )


def untracked_refusal(release: str, paths: Sequence[str], project_dir: str) -> Refusal:
    """Files that nobody tracks now, and the target does: its checkout would fail, with the database down already."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return Refusal(
        "untracked_files",
        f"{release} has files that lie untracked in the checkout: {', '.join(paths[:5])}{more}",
        f"move them out of {project_dir}",
    )


def by_service(
    containers: Iterable[Mapping[str, Any]], project: str, project_dir: str
) -> dict[str, list[Mapping[str, Any]]]:
    """The inspected containers of a project by service, the one that counts first; one-off runs are left out.

    Where the project's name is not known ('': its compose file is broken), its directory tells.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for container in containers:
        labels = (container.get("Config") or {}).get("Labels") or {}
        ours = labels.get(PROJECT_LABEL) == project if project else labels.get(WORKING_DIR_LABEL) == project_dir
        if ours and str(labels.get(ONEOFF_LABEL, "False")).lower() != "true":
            found.setdefault(str(labels.get(SERVICE_LABEL) or ""), []).append(container)
    for members in found.values():
        members.sort(key=lambda member: str(member.get("Created") or ""), reverse=True)
        members.sort(key=lambda member: _liveliness(str((member.get("State") or {}).get("Status") or "")))
    return found


def describe(container: Mapping[str, Any], image: Mapping[str, Any] | None) -> dict[str, Any]:
    """One container and its image, as stack_info returns it."""
    state = container.get("State") or {}
    return {
        "container_id": str(container.get("Id") or ""),
        "name": str(container.get("Name") or "").lstrip("/"),
        "state": str(state.get("Status") or ""),
        "health": str((state.get("Health") or {}).get("Status") or ""),
        "restarts": int(container.get("RestartCount") or 0),
        "started_at": str(state.get("StartedAt") or ""),
        "image": str((container.get("Config") or {}).get("Image") or ""),
        "image_id": str(container.get("Image") or ""),
        "repo_digests": list((image or {}).get("RepoDigests") or []),
    }


def runs(container: Mapping[str, Any]) -> bool:
    """Whether an inspected container's process runs, or is about to."""
    return str((container.get("State") or {}).get("Status") or "") in ("running", "restarting", "paused")


def addresses(members: Iterable[Mapping[str, Any]]) -> list[str]:
    """The addresses of the running containers of a service."""
    found = []
    for container in members:
        if (container.get("State") or {}).get("Status") == "running":
            networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
            found += [str(network["IPAddress"]) for network in networks.values() if network.get("IPAddress")]
    return found


def running_release(services: Mapping[str, Mapping[str, Any]], releases: Sequence[Mapping[str, Any]]) -> str:
    """The release that the containers show: the one whose digests the ledger knows, else their common tag, else ''."""
    running = {name: service["running"] for name, service in services.items() if service.get("running")}
    if not running:
        return ""
    if any(service.get("artifact") is not None for service in services.values()):
        named = {release_of(services[name]) for name in running}
        return named.pop() if len(named) == 1 else ""
    for release in releases:
        recorded = {name: (release["services"].get(name) or {}).get("digest") for name in running}
        if all(digest and _has_digest(running[name], digest) for name, digest in recorded.items()):
            return str(release["release"])
    tags = {_image_reference.parse(container["image"]).tag for container in running.values()}
    return tags.pop() if len(tags) == 1 else ""


def registry_answer(status: int, message: str) -> RegistryAnswer:
    """What the engine's error means when it asked a registry.

    The message is read first: engines of different age give one failure different statuses.
    """
    text = message.lower()
    if any(sign in text for sign in ("manifest unknown", "not found", "name unknown", "no such manifest")):
        return RegistryAnswer(problem="missing", message=message)
    denied = ("unauthorized", "denied", "authentication required", "no basic auth credentials", "incorrect username")
    if status in (401, 403) or any(sign in text for sign in denied):
        return RegistryAnswer(problem="denied", message=message)
    return RegistryAnswer(problem="missing" if status == 404 else "unreachable", message=message)


def judge_target(
    reference: str,
    recorded: Mapping[str, str],
    by_tag: Mapping[str, Any] | None,
    by_digest: Mapping[str, Any] | None,
    answer: RegistryAnswer | None,
) -> TargetImage:
    """Which image the target is, whether it is local, and what stands in the way.

    ``recorded`` is what the ledger says of the service in that release ({} when nothing); ``by_tag`` is the local image
    with the target's name; ``by_digest`` the local image with the recorded digest or, without one, with the registry's;
    ``answer`` is the registry's, None when it was not asked because images are built on the host.
    """
    parsed = _image_reference.parse(reference)
    known = recorded.get("digest") or ""
    tag_digest = _image_reference.digest_in(list((by_tag or {}).get("RepoDigests") or []), parsed)
    same_id = bool(recorded.get("image_id")) and (by_tag or {}).get("Id") == recorded.get("image_id")
    if answer is None:
        # The ledger may know the release by a digest that the host has no more; what is built has one of its own.
        if same_id or by_tag and known and tag_digest == known:
            return TargetImage(known or tag_digest, True)
        return TargetImage(tag_digest or str((by_tag or {}).get("Id") or ""), bool(by_tag))
    if known and answer.digest and answer.digest != known:
        return TargetImage(known, bool(by_digest), (_moved(reference, parsed, known, answer.digest),))
    digest = known or answer.digest or tag_digest
    wanted = known or answer.digest
    # Under the target's name: that is what will be started, with no pull on the way.
    same_image = bool(by_tag and by_digest) and by_tag["Id"] == by_digest["Id"]
    local = same_id or same_image or bool(by_tag and wanted and tag_digest == wanted)
    if local or answer.digest:
        return TargetImage(digest, local)
    return TargetImage(digest, bool(by_tag), (_unavailable(reference, parsed, answer, bool(by_tag)),))


# Where a kept build holds its id, below its own folder.
BUILD_ID = (".next", "BUILD_ID")


def artifact_refusal(release: str, directory: str) -> Refusal:
    """No kept build of the release to go to."""
    return Refusal(
        "artifact_missing",
        f"no kept build of {release}: there is no {'/'.join((directory, release, *BUILD_ID))}",
        f"ls {directory}; name a release whose build is kept, or use rollback_frontend_source=image",
    )


def runs_image(running: Mapping[str, Any], digest: str, image: str) -> bool:
    """Whether a container, as describe tells of it, is of an image: by digest or id, by name where neither is known."""
    if digest:
        return _has_digest(running, digest) or running.get("image_id") == digest
    return bool(image) and running.get("image") == image


def release_of(service: Mapping[str, Any]) -> str:
    """The release that a service of stack_info runs: its kept build's, else its image's tag; '' when nothing tells."""
    artifact = service.get("artifact")
    if artifact is not None:
        return str(artifact.get("current") or "")
    image = (service.get("running") or {}).get("image") or ""
    return _image_reference.parse(image).tag if image else ""


def is_target(service: Mapping[str, Any]) -> bool:
    """Whether the running container's image is the target's, as the reading itself knows it."""
    running = service.get("running") or {}
    return runs_image(running, service.get("target_digest") or "", service.get("target_image") or "")


def release_before(stack: Mapping[str, Any]) -> str:
    """The release a host is on, as its containers say, else its checkout, else its ledger."""
    tags = [release for release in map(release_of, filter(None, stack["services"].values())) if release]
    return (tags or list(stack["git"].get("head_tags") or ()) or [stack["ledger"].get("current") or "unknown"])[0]


def disk_refusal(root_dir: str, free_mb: int, min_free_mb: int) -> Refusal | None:
    """A refusal when an image has to come and the engine's disk has no room."""
    if free_mb >= min_free_mb:
        return None
    return Refusal(
        "disk_full",
        f"{root_dir} has {free_mb} MB free, and pulling or building needs {min_free_mb} MB (rollback_min_free_mb)",
        "docker image prune (without -a: that would also delete the release to go back to)",
    )


def git_failure(error: _git.GitError, project_dir: str) -> str:
    """What a git command that failed has left, and what to type."""
    if error.left is None:
        found = git_refusal(error.kind, str(error), project_dir)
        return f"{found.message}. Nothing was changed. Next: {found.next}"
    text = f"git could not move the checkout {project_dir}: {error}."
    if not error.left:
        return (
            f"{text} All files are those of the commit that was checked out before. Mend what stopped git "
            f"(df -h {project_dir}), then run the same command again"
        )
    more = f" and {len(error.left) - 5} more" if len(error.left) > 5 else ""
    return (
        f"{text} What it began could not be put back: {', '.join(error.left[:5])}{more} may be of another commit, cut "
        f"off or gone. Mend what stopped git (df -h {project_dir}), then: git -C {project_dir} checkout --force"
    )


def git_refusal(kind: str, message: str, project_dir: str) -> Refusal:
    """Why the checkout cannot be read."""
    if kind == "ownership":
        return Refusal(
            "git_safe_directory",
            f"git refuses {project_dir}, since another user owns it",
            f"git config --global --add safe.directory {project_dir}",
        )
    if kind == "no_repository":
        return Refusal(
            "git_missing",
            f"{project_dir} is no git checkout",
            f"git -C {project_dir} status; set rollback_project_dir",
        )
    if kind == "denied":
        return Refusal(
            "git_denied", f"the git remote refuses this host: {message}", f"git -C {project_dir} fetch --tags"
        )
    if kind == "unreachable":
        return Refusal(
            "git_unreachable",
            f"the git remote cannot be asked: {message}",
            f"git -C {project_dir} ls-remote --tags origin",
        )
    return Refusal("git_failed", f"git cannot read {project_dir}: {message}", f"git -C {project_dir} status")


def _has_digest(container: Mapping[str, Any], digest: str) -> bool:
    return any(str(known).endswith(f"@{digest}") for known in container.get("repo_digests") or ())


def _liveliness(state: str) -> int:
    return _STATES.index(state) if state in _STATES else len(_STATES)


def _moved(reference: str, parsed: _image_reference.ImageReference, known: str, now: str) -> Refusal:
    return Refusal(
        "target_moved",
        f"{reference} in the registry is {now}, and the ledger knows this release as {known}",
        f"docker buildx imagetools create -t {reference} {parsed.with_digest(known)}",
    )


def _unavailable(
    reference: str, parsed: _image_reference.ImageReference, answer: RegistryAnswer, tagged: bool
) -> Refusal:
    here = (
        "an image of that name is on this host, but nothing proves that it is this release"
        if tagged
        else "it is not on this host"
    )
    if answer.problem == "denied":
        return Refusal(
            "registry_denied",
            f"the registry {parsed.registry} refuses {reference} ({answer.message}), and {here}",
            f"docker login {parsed.registry}",
        )
    if answer.problem == "missing":
        return Refusal(
            "image_missing",
            f"{reference} is not in the registry, and {here}",
            f"docker push {reference} from where it is, or name another release",
        )
    return Refusal(
        "registry_unreachable",
        f"the registry {parsed.registry} cannot be asked for {reference} ({answer.message}), and {here}",
        f"docker manifest inspect {reference}",
    )
