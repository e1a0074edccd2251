# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the simulated ``docker`` command does: the compose files and the .env are real, and are read at every call."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from .engine import Container, Engine, EngineError, build_id

VERSION = "2.40.3"
ENGINE_VERSION = "28.5.1"
FILE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = ("compose.override.yml", "docker-compose.override.yml", "docker-compose.override.yaml")
# Options that take a value, so that what follows is none of the arguments.
VALUED = frozenset(
    ["--host", "-H", "--context", "--config", "--log-level", "-l", "--project-name", "-p", "--project-directory"]
    + ["--file", "-f", "--env-file", "--profile", "--ansi", "--progress", "--parallel", "--format", "--hash", "--pull"]
    + ["--timeout", "-t", "--wait-timeout", "--scale", "--tail", "-n", "--since", "--until", "--filter", "--policy"]
    + ["--rmi", "--signal", "-s", "--index", "--user", "-u", "--workdir", "-w", "--env", "-e", "--entrypoint", "--name"]
)
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<braced>\w+)(?P<operator>:?[-?+])?(?P<operand>[^}]*)\}|(?P<bare>[A-Za-z_]\w*))"
)


@dataclass
class Answer:
    """How a command ends."""

    rc: int = 0
    out: str = ""
    err: str = ""


@dataclass
class Command:
    """A command line taken apart: options by name, each with its values ('' for a flag), and the words."""

    options: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def last(self, *names: str) -> str:
        """The last value of an option under any of its names, '' without it."""
        return next((self.options[name][-1] for name in names if name in self.options), "")

    def all(self, *names: str) -> list[str]:
        """Every value of an option."""
        return [value for name in names for value in self.options.get(name, [])]

    def has(self, *names: str) -> bool:
        """Whether an option was given."""
        return any(name in self.options for name in names)


def parse(args: Sequence[str], stop: int = 1_000_000) -> tuple[Command, list[str]]:
    """Options and words, up to the ``stop``-th word; what follows it is returned as it is."""
    command = Command()
    rest = list(args)
    while rest and len(command.words) < stop:
        arg = rest.pop(0)
        if arg == "--":
            command.words += rest
            return command, []
        if not arg.startswith("-") or arg == "-":
            command.words.append(arg)
            continue
        name, equals, value = arg.partition("=")
        if not equals and name in VALUED and rest:
            value = rest.pop(0)
        command.options.setdefault(name, []).append(value)
    return command, rest


@dataclass
class Project:
    """A Compose project as rendered."""

    name: str
    directory: str
    services: dict[str, dict[str, Any]]


def run(engine: Engine, args: Sequence[str], cwd: str, environment: Mapping[str, str]) -> Answer:
    """One ``docker`` command. Never raises; what is not simulated ends with 125 and says so."""
    try:
        top, rest = parse(args, stop=1)
        name = top.words[0] if top.words else ""
        if name == "compose":
            before, rest = parse(rest, stop=1)
            verb = before.words[0] if before.words else ""
            action = COMPOSE.get(verb)
            if action is not None:
                command, _rest = parse(rest)
                return action(engine, before, command, _Place(cwd, environment))
            name = f"compose {verb}"
        elif name in ("image", "container", "system"):
            name, rest = f"{name} {rest[0] if rest else ''}", rest[1:]
        action = DOCKER.get(name)
        if action is not None:
            command, _rest = parse(rest)
            return action(engine, command)
        return Answer(125, err=f"bench: docker {' '.join(args)} is not simulated")
    except EngineError as error:
        return Answer(1, err=f"Error response from daemon: {error}")
    except (OSError, yaml.YAMLError, ValueError) as error:
        return Answer(1, err=f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Place:
    cwd: str
    environment: Mapping[str, str]


def read_env(text: str) -> dict[str, str]:
    """The variables of a .env file."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            found[name.removeprefix("export ").strip()] = value.strip().strip("\"'")
    return found


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """A value of a compose file with its variables replaced."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return _VARIABLE.sub(lambda match: _replaced(match, variables), value) if isinstance(value, str) else value


def _replaced(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    value = variables.get(match["braced"] or match["bare"])
    operator, operand = match["operator"] or "", match["operand"] or ""
    there = value is not None and (not operator.startswith(":") or value != "")
    if operator.endswith("?") and not there:
        raise ValueError(f"required variable {match['braced']} is missing a value: {operand}")
    if operator.endswith("+"):
        return operand if there else ""
    return (value if there else operand if operator else value) or ""


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(result.get(key), dict) and isinstance(value, dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def load(before: Command, place: _Place) -> Project:
    """The project that the options in front of the verb name, read from disk."""
    files = [os.path.join(place.cwd, path) for path in before.all("--file", "-f")]
    directory = before.last("--project-directory")
    directory = os.path.join(place.cwd, directory) if directory else os.path.dirname(files[0]) if files else place.cwd
    variables: dict[str, str] = {}
    for path in before.all("--env-file") or [".env"]:
        path = os.path.join(directory, path)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as stream:
                variables.update(read_env(stream.read()))
    variables.update(place.environment)
    if not files:
        names = [next((n for n in FILE_NAMES if os.path.exists(os.path.join(directory, n))), "")]
        names += [n for n in OVERRIDES if os.path.exists(os.path.join(directory, n))]
        files = [os.path.join(directory, n) for n in names if n]
    if not files:
        raise ValueError("no configuration file provided: not found")
    raw: dict[str, Any] = {}
    for path in files:
        with open(path, encoding="utf-8") as stream:
            raw = _merged(raw, interpolate(yaml.safe_load(stream) or {}, variables))
    profiles = set(before.all("--profile")) | set(variables.get("COMPOSE_PROFILES", "").split(","))
    services = {
        name: dict(service or {})
        for name, service in (raw.get("services") or {}).items()
        if not (service or {}).get("profiles") or profiles & set(service["profiles"])
    }
    name = before.last("--project-name", "-p") or variables.get("COMPOSE_PROJECT_NAME") or raw.get("name")
    return Project(str(name or os.path.basename(directory)), directory, services)


def _chosen(project: Project, words: Sequence[str]) -> list[str]:
    for word in words:
        if word not in project.services:
            raise ValueError(f"no such service: {word}")
    return list(words) or list(project.services)


def _hash(service: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(service, sort_keys=True).encode()).hexdigest()


def _ports(service: Mapping[str, Any]) -> dict[int, int]:
    pairs = {}
    for entry in service.get("ports") or ():
        if isinstance(entry, dict):
            pairs[int(entry["published"])] = int(entry["target"])
        else:
            parts = str(entry).split("/")[0].split(":")
            pairs[int(parts[-2])] = int(parts[-1])
    return pairs


def _events(before: Command, events: Iterable[tuple[str, str]]) -> str:
    if before.last("--progress") == "json":
        return "".join(json.dumps({"id": what, "status": status}) + "\n" for what, status in events)
    return "".join(f" {what}  {status}\n" for what, status in events)


def _fails(before: Command, message: str) -> Answer:
    said = json.dumps({"error": True, "message": message}) if before.last("--progress") == "json" else message
    return Answer(1, err=said + "\n")


def _version(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    if command.has("--short"):
        return Answer(out=VERSION + "\n")
    if command.last("--format", "-f") == "json":
        return Answer(out=json.dumps({"version": VERSION}) + "\n")
    return Answer(out=f"Docker Compose version v{VERSION}\n")


def _config(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    chosen = _chosen(project, command.words)
    if command.has("--quiet", "-q"):
        return Answer()
    if command.has("--services"):
        return Answer(out="".join(f"{name}\n" for name in chosen))
    if command.has("--images"):
        return Answer(out="".join(f"{project.services[name].get('image', '')}\n" for name in chosen))
    if command.has("--hash"):
        asked = command.last("--hash")
        names = chosen if asked == "*" else asked.split(",")
        return Answer(out="".join(f"{name} {_hash(project.services[name])}\n" for name in names))
    shown = {"name": project.name, "services": {name: project.services[name] for name in chosen}, "networks": {}}
    if command.last("--format") == "json":
        return Answer(out=json.dumps(shown, indent=2) + "\n")
    return Answer(out=yaml.safe_dump(shown))


def _pull(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    events = []
    for name in _chosen(project, command.words):
        reference = str(project.services[name].get("image") or "")
        events.append((name, "Pulling"))
        wanted = command.last("--policy") != "missing" or engine.find(reference) is None
        try:
            fresh = engine.find(reference) is None and engine.look_up(reference)
            if wanted and not command.has("--dry-run"):
                engine.pull(reference)
            if wanted and fresh:
                events.append((f"Image {reference}", "Pulling"))
        except EngineError as error:
            return _fails(before, str(error))
        events.append((name, "Pulled"))
    return Answer(err=_events(before, events))


def _up(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    events: list[tuple[str, str]] = []
    scale = dict(entry.split("=") for entry in command.all("--scale"))
    dry = command.has("--dry-run")
    for name in _chosen(project, command.words):
        service = project.services[name]
        reference = str(service.get("image") or "")
        if engine.find(reference) is None or command.last("--pull") == "always":
            if command.last("--pull") == "never":
                return _fails(before, f"No such image: {reference}")
            try:
                engine.look_up(reference)
                if not dry:
                    engine.pull(reference)
            except EngineError as error:
                return _fails(before, str(error))
        try:
            events += _converge(engine, project, name, int(scale.get(name, 1)), command, dry)
        except EngineError as error:
            return _fails(before, str(error))
    return Answer(err=_events(before, events))


def _converge(
    engine: Engine, project: Project, name: str, count: int, command: Command, dry: bool
) -> list[tuple[str, str]]:
    """Bring one service to its definition, as ``up`` does: what differs is replaced, what is stopped is started."""
    service = project.services[name]
    # In a dry run it may not be there yet.
    reference = str(service.get("image") or "")
    image = engine.find(reference) or engine.look_up(reference)
    fingerprint = _hash(service)
    events: list[tuple[str, str]] = []
    kept = engine.of(project.name, [name])
    for extra in kept[count:]:
        events += [(f"Container {extra.name}", "Stopping"), (f"Container {extra.name}", "Removed")]
        if not dry:
            engine.remove(extra)
    kept = kept[:count]
    for position, old in enumerate(list(kept)):
        stale = old.image != image or old.labels["com.docker.compose.config-hash"] != fingerprint
        if command.has("--force-recreate") or stale and not command.has("--no-recreate"):
            events += [(f"Container {old.name}", "Recreate"), (f"Container {old.name}", "Recreated")]
            if not dry:
                engine.remove(old)
                kept[position] = _make(engine, project, name, fingerprint, old.name)
    taken = {item.name for item in kept}
    free = (f"{project.name}-{name}-{number}" for number in range(1, 1000))
    while len(kept) < count:
        new = next(candidate for candidate in free if candidate not in taken)
        events += [(f"Container {new}", "Creating"), (f"Container {new}", "Created")]
        if dry:
            break
        kept.append(_make(engine, project, name, fingerprint, new))
    for container in kept:
        if container.state == "running":
            events.append((f"Container {container.name}", "Running"))
        elif not command.has("--no-start"):
            events += [(f"Container {container.name}", "Starting"), (f"Container {container.name}", "Started")]
            if not dry:
                engine.start(container)
        if command.has("--wait") and not command.has("--no-start"):
            events += [(f"Container {container.name}", "Waiting"), (f"Container {container.name}", "Healthy")]
    return events


def _make(engine: Engine, project: Project, name: str, fingerprint: str, container: str) -> Container:
    service = project.services[name]
    labels = {
        "com.docker.compose.project": project.name,
        "com.docker.compose.project.working_dir": project.directory,
        "com.docker.compose.service": name,
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.config-hash": fingerprint,
        "com.docker.compose.container-number": container.rpartition("-")[2],
    }
    return engine.create(str(service["image"]), labels, container, _ports(service), str(service.get("restart") or "no"))


def _set_state(status: str, doing: str, done: str) -> Callable[[Engine, Command, Command, _Place], Answer]:
    def act(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
        project = load(before, place)
        events = []
        for container in engine.of(project.name, _chosen(project, command.words)):
            events += [(f"Container {container.name}", doing), (f"Container {container.name}", done)]
            if command.has("--dry-run"):
                continue
            if status == "running":
                engine.start(container)
            elif container.state == "running":
                container.state = status
        return Answer(err=_events(before, events))

    return act


def _rm(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    events = []
    for container in engine.of(project.name, _chosen(project, command.words)):
        if container.state == "running" and not command.has("--stop", "-s"):
            continue
        events.append((f"Container {container.name}", "Removed"))
        engine.remove(container)
    return Answer(err=_events(before, events))


def _down(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    events = []
    for container in engine.of(project.name, command.words):
        events += [(f"Container {container.name}", "Stopping"), (f"Container {container.name}", "Removed")]
        engine.remove(container)
    return Answer(err=_events(before, events))


def _create(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    command.options.setdefault("--no-start", [""])
    return _up(engine, before, command, place)


def _ps(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    found = [
        item for item in engine.of(project.name, command.words) if command.has("--all", "-a") or item.state == "running"
    ]
    if command.has("--quiet", "-q"):
        return Answer(out="".join(f"{item.identifier}\n" for item in found))
    if command.has("--services"):
        return Answer(out="".join(f"{name}\n" for name in dict.fromkeys(item.service for item in found)))
    return Answer(out="".join(json.dumps(_row(item)) + "\n" for item in found))


def _row(container: Container) -> dict[str, Any]:
    running = container.state == "running"
    return {
        "Command": '"node server.js"',
        "CreatedAt": "2026-01-01 00:00:00 +0000 UTC",
        "ExitCode": 0,
        "Health": "healthy" if running else "",
        "ID": container.identifier,
        "Image": container.reference,
        "Labels": ",".join(f"{key}={value}" for key, value in container.labels.items()),
        "LocalVolumes": "0",
        "Mounts": "",
        "Name": container.name,
        "Names": container.name,
        "Networks": f"{container.project}_default",
        "Ports": ", ".join(f"0.0.0.0:{port}->{inner}/tcp" for port, inner in container.ports.items()),
        "Project": container.project,
        "Publishers": [
            {"URL": "0.0.0.0", "TargetPort": inner, "PublishedPort": port, "Protocol": "tcp"}
            for port, inner in container.ports.items()
        ],
        "RunningFor": "2 minutes ago",
        "Service": container.service,
        "Size": "0B",
        "State": container.state,
        "Status": "Up 2 minutes (healthy)" if running else "Exited (0)",
    }


def _images(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    rows = [
        {
            "ID": item.image.identifier,
            "ContainerName": item.name,
            "Repository": item.image.repository,
            "Tag": item.image.release,
            "Size": 180_000_000,
        }
        for item in engine.of(project.name, command.words)
    ]
    return Answer(out=json.dumps(rows) + "\n")


def _logs(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    project = load(before, place)
    bare = command.has("--no-log-prefix")
    lines = []
    for container in engine.of(project.name, command.words):
        prefix = "" if bare else f"{container.name.partition('-')[2]}  | "
        lines += [prefix + line for line in engine.logs(container).splitlines()]
    return Answer(out="".join(f"{line}\n" for line in lines))


def _exec(engine: Engine, before: Command, command: Command, place: _Place) -> Answer:
    # Only the reading of the build's id is known to be asked for.
    if command.words[1:2] == ["cat"] and command.words[-1].endswith("BUILD_ID"):
        project = load(before, place)
        container = engine.of(project.name, command.words[:1])[0]
        return Answer(out=build_id(container.image.release) + "\n")
    return Answer(125, err=f"bench: docker compose exec {' '.join(command.words)} is not simulated")


COMPOSE: dict[str, Callable[[Engine, Command, Command, _Place], Answer]] = {
    "version": _version,
    "config": _config,
    "pull": _pull,
    "up": _up,
    "create": _create,
    "start": _set_state("running", "Starting", "Started"),
    "stop": _set_state("exited", "Stopping", "Stopped"),
    "kill": _set_state("exited", "Killing", "Killed"),
    "restart": _set_state("running", "Restarting", "Restarted"),
    "rm": _rm,
    "down": _down,
    "ps": _ps,
    "images": _images,
    "logs": _logs,
    "exec": _exec,
}


def _docker_version(engine: Engine, command: Command) -> Answer:
    shown = {
        "Client": {"Version": ENGINE_VERSION, "ApiVersion": "1.51"},
        "Server": {"Version": ENGINE_VERSION, "ApiVersion": "1.51"},
    }
    return Answer(out=json.dumps(shown) + "\n")


def _docker_info(engine: Engine, command: Command) -> Answer:
    plugins = [{"Name": "compose", "Version": f"v{VERSION}"}]
    shown = {"ServerVersion": ENGINE_VERSION, "DockerRootDir": engine.root, "ClientInfo": {"Plugins": plugins}}
    return Answer(out=json.dumps(shown) + "\n")


def _image_inspect(engine: Engine, command: Command) -> Answer:
    found, missing = [], []
    for reference in command.words:
        image = engine.find(reference)
        if image is None:
            missing.append(f"Error response from daemon: No such image: {reference}\n")
        else:
            found.append(engine.describe_image(image))
    return Answer(1 if missing else 0, json.dumps(found) + "\n", "".join(missing))


def _container_inspect(engine: Engine, command: Command) -> Answer:
    return Answer(out=json.dumps([engine.describe(engine.container(name)) for name in command.words]) + "\n")


def _image_pull(engine: Engine, command: Command) -> Answer:
    for reference in command.words:
        engine.pull(reference)
    return Answer(out="".join(f"{reference}\n" for reference in command.words))


def _image_tag(engine: Engine, command: Command) -> Answer:
    engine.tag(*command.words[:2])
    return Answer()


def _image_rm(engine: Engine, command: Command) -> Answer:
    for reference in command.words:
        engine.untag(reference)
    return Answer()


def _image_ls(engine: Engine, command: Command) -> Answer:
    rows = [
        {"ID": image.identifier, "Repository": name.rpartition(":")[0], "Tag": name.rpartition(":")[2]}
        for name, image in engine.tags.items()
    ]
    return Answer(out="".join(json.dumps(row) + "\n" for row in rows))


def _container_stop(engine: Engine, command: Command) -> Answer:
    for name in command.words:
        engine.container(name).state = "exited"
    return Answer()


def _container_start(engine: Engine, command: Command) -> Answer:
    for name in command.words:
        engine.start(engine.container(name))
    return Answer()


def _container_rm(engine: Engine, command: Command) -> Answer:
    for name in command.words:
        engine.remove(engine.container(name))
    return Answer()


DOCKER: dict[str, Callable[[Engine, Command], Answer]] = {
    "version": _docker_version,
    "info": _docker_info,
    "system info": _docker_info,
    "image inspect": _image_inspect,
    "image pull": _image_pull,
    "pull": _image_pull,
    "image tag": _image_tag,
    "tag": _image_tag,
    "image rm": _image_rm,
    "rmi": _image_rm,
    "image ls": _image_ls,
    "images": _image_ls,
    "inspect": _container_inspect,
    "container inspect": _container_inspect,
    "stop": _container_stop,
    "container stop": _container_stop,
    "start": _container_start,
    "container start": _container_start,
    "rm": _container_rm,
    "container rm": _container_rm,
}
