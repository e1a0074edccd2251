# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one process that is every host's Docker Engine, ``docker`` command and published ports.

Started with the path of a description of the fleet (see fleet.py); says ``ready`` once everything listens.
Its control socket answers one line with one line of JSON: ``state`` tells what every host runs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from . import compose
from .engine import Container, Engine, EngineError, page, registry

REASONS = {200: "OK", 201: "Created", 204: "No Content", 304: "Not Modified", 404: "Not Found", 409: "Conflict"}
COMPOSE_ENVIRONMENT = ("COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME")

Reply = tuple[int, str, bytes]
Handler = Callable[[str, str, bytes], Reply | None]


class Simulator:
    """All the hosts of a fleet."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        images = registry(description["releases"])
        self.engines = {name: Engine(name, host["root"], images) for name, host in description["hosts"].items()}
        self.by_socket = {f"unix://{host['socket']}": name for name, host in description["hosts"].items()}
        self.unknown: list[str] = []
        self.commands = 0
        self.requests = 0

    def begin(self) -> None:
        """Every host runs the release from before: its images pulled, its containers started."""
        for name, host in self.description["hosts"].items():
            for verb in ("pull", "up"):
                answer = compose.run(self.engines[name], ["compose", verb, "--wait"], host["project"], {})
                if answer.rc:
                    raise SystemExit(f"bench: {name}: docker compose {verb}: {answer.err}")

    def command(self, words: list[str]) -> compose.Answer:
        """One call of the docker command; its first words are the directory and the environment."""
        self.commands += 1
        cwd, docker_host, *given = words
        values, args = given[: len(COMPOSE_ENVIRONMENT)], given[len(COMPOSE_ENVIRONMENT) :]
        asked = compose.parse(args, stop=1)[0].last("--host", "-H") or docker_host
        if asked not in self.by_socket:
            return compose.Answer(125, err=f"bench: no simulated host has the engine {asked}")
        environment = {name: value for name, value in zip(COMPOSE_ENVIRONMENT, values) if value}
        answer = compose.run(self.engines[self.by_socket[asked]], args, cwd, environment)
        if answer.rc == 125:
            self.unknown.append(answer.err)
        return answer

    def api(self, engine: Engine, method: str, target: str, body: bytes) -> Reply:
        """One request to an engine's API."""
        self.requests += 1
        try:
            found = _api(engine, method, target, body)
        except EngineError as error:
            return error.status, "application/json", json.dumps({"message": str(error)}).encode()
        if found is None:
            self.unknown.append(f"bench: {method} {target} of the engine's API is not simulated")
            return 501, "application/json", json.dumps({"message": self.unknown[-1]}).encode()
        return found

    def state(self) -> dict[str, Any]:
        """What every host runs, and what the simulation itself has cost."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "hosts": {
                name: [
                    {
                        "service": item.service,
                        "state": item.state,
                        "release": item.image.release,
                        "image": item.reference,
                        "image_id": item.image.identifier,
                    }
                    for item in engine.containers.values()
                ]
                for name, engine in self.engines.items()
            },
            "unknown": self.unknown,
            "commands": self.commands,
            "requests": self.requests,
            "cpu": usage.ru_utime + usage.ru_stime,
        }


def _json(value: Any, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(value).encode()


def _api(engine: Engine, method: str, target: str, body: bytes) -> Reply | None:
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    words = [urllib.parse.unquote(word) for word in parts.path.strip("/").split("/")]
    if words and words[0].startswith("v1."):
        words = words[1:]
    if words == ["_ping"]:
        return 200, "text/plain", b"OK"
    if words == ["version"]:
        return _json({"Version": compose.ENGINE_VERSION, "ApiVersion": "1.51", "MinAPIVersion": "1.24"})
    if words == ["info"]:
        return _json({"DockerRootDir": engine.root, "ServerVersion": compose.ENGINE_VERSION, "Name": engine.host})
    if words[0] == "images":
        return _images(engine, method, words[1:], query)
    if words[0] == "distribution" and words[-1] == "json":
        image = engine.look_up("/".join(words[1:-1]))
        return _json({"Descriptor": {"digest": image.digest, "size": 1234}, "Platforms": []})
    if words[0] == "containers":
        return _containers(engine, method, words[1:], query, body)
    return None


def _images(engine: Engine, method: str, words: list[str], query: dict[str, str]) -> Reply | None:
    if words == ["json"]:
        known = {image.identifier: image for image in engine.tags.values()}
        return _json([engine.describe_image(image) for image in known.values()])
    if words == ["create"] and method == "POST":
        name, tag = query.get("fromImage", ""), query.get("tag", "")
        engine.pull(f"{name}{'@' if tag.startswith('sha256:') else ':'}{tag}" if tag else name)
        return _json({"status": "Pull complete"})
    reference = "/".join(words[:-1])
    if words[-1] == "tag" and method == "POST":
        engine.tag(reference, f"{query['repo']}:{query.get('tag') or 'latest'}")
        return 201, "application/json", b""
    if method == "DELETE":
        engine.untag("/".join(words))
        return _json([])
    if words[-1] == "json":
        image = engine.find(reference)
        if image is None:
            raise EngineError(404, f"No such image: {reference}")
        return _json(engine.describe_image(image))
    return None


def _containers(engine: Engine, method: str, words: list[str], query: dict[str, str], body: bytes) -> Reply | None:
    if words == ["json"]:
        return _json([engine.listed(item) for item in _listed(engine, query)])
    if words == ["create"] and method == "POST":
        wanted = json.loads(body)
        made = engine.create(wanted["Image"], wanted.get("Labels") or {}, query.get("name", ""))
        return _json({"Id": made.identifier, "Warnings": []}, 201)
    container = engine.container(words[0])
    if method == "DELETE":
        engine.remove(container)
        return 204, "text/plain", b""
    verb = words[1]
    if verb == "json":
        return _json(engine.describe(container))
    if verb == "archive" and method == "GET":
        return 200, "application/x-tar", engine.archive(container, query.get("path", ""))
    if verb == "archive" and method == "PUT":
        return 200, "application/json", b""
    if verb == "logs":
        return 200, "application/vnd.docker.raw-stream", _frames(engine.logs(container))
    if method == "POST":
        return _change(engine, container, verb, query)
    return None


def _listed(engine: Engine, query: dict[str, str]) -> list[Container]:
    filters = json.loads(query.get("filters") or "{}")
    wanted = list(filters.get("label") or ())
    states = list(filters.get("status") or ())
    everything = query.get("all") in ("1", "true", "True") or bool(states)
    return [
        item
        for item in engine.containers.values()
        if (everything or item.state == "running")
        and (not states or item.state in states)
        and all(_has_label(item, label) for label in wanted)
    ]


def _has_label(container: Container, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in container.labels and (not equals or container.labels[key] == value)


def _change(engine: Engine, container: Container, verb: str, query: dict[str, str]) -> Reply | None:
    if verb in ("start", "restart"):
        engine.start(container)
    elif verb in ("stop", "kill"):
        container.state = "exited"
    elif verb == "rename":
        container.name = query["name"]
    elif verb == "update":
        return _json({"Warnings": []})
    elif verb == "wait":
        return _json({"StatusCode": 0})
    else:
        return None
    return 204, "text/plain", b""


def _frames(text: str) -> bytes:
    """Text as the engine's multiplexed stream: a header of eight bytes before each line."""
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    return b"".join(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line for line in lines)


def speak_http(handle: Handler) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server of HTTP/1.1 with connections that stay; a handler's None cuts the connection, as a closed port does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _version = head[0].split(" ")
                headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                reply = handle(method, target, body)
                if reply is None:
                    return
                status, kind, content = reply
                lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}"]
                if status != 204:
                    lines += [f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
                closing = headers.get("connection", "").lower() == "close"
                lines += ["Connection: close"] if closing else []
                writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else content))
                await writer.drain()
                if closing:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    return serve


async def serve(simulator: Simulator) -> None:
    """Listen for every host, until this process is ended."""

    async def command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            count = int((await reader.readuntil(b"\0"))[:-1])
            words = [(await reader.readuntil(b"\0"))[:-1].decode() for _ in range(count)]
            answer = simulator.command(words)
            out, err = (_lines(text) for text in (answer.out, answer.err))
            writer.write(f"{answer.rc} {out.count(chr(10))} {err.count(chr(10))}\n{out}{err}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(json.dumps(simulator.state()).encode() + b"\n")
        await writer.drain()
        writer.close()

    def published(engine: Engine, port: int) -> Handler:
        def handle(method: str, target: str, body: bytes) -> Reply | None:
            container = engine.serving(port)
            return page(container, urllib.parse.urlsplit(target).path) if container else None

        return handle

    def of_engine(engine: Engine) -> Handler:
        return lambda method, target, body: simulator.api(engine, method, target, body)

    for name, host in simulator.description["hosts"].items():
        engine = simulator.engines[name]
        await asyncio.start_unix_server(speak_http(of_engine(engine)), host["socket"])
        for port in host["ports"].values():
            await asyncio.start_server(speak_http(published(engine, port)), "127.0.0.1", port)
    await asyncio.start_server(command, "127.0.0.1", simulator.description["docker_port"], backlog=512)
    await asyncio.start_unix_server(control, simulator.description["control"])
    print("ready", flush=True)
    while True:
        await asyncio.sleep(3600)


def _lines(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def main() -> None:
    """Simulate the fleet that the argument describes."""
    simulator = Simulator(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    started = time.monotonic()
    simulator.begin()
    print(f"{len(simulator.engines)} engines in {time.monotonic() - started:.1f} s", file=sys.stderr)
    asyncio.run(serve(simulator))


if __name__ == "__main__":
    main()
