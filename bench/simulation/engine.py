# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One simulated Docker Engine: its images, its containers, and what its API says of them. No I/O."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REGISTRY = "registry.bench.invalid:5000"
SERVICES = ("api", "web")
CREATED = "2026-01-01T00:00:00.000000000Z"


class EngineError(Exception):
    """A request the engine refuses; ``status`` is the API's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Image:
    """An image of the registry: one service of one release."""

    repository: str
    release: str
    digest: str
    identifier: str

    @property
    def service(self) -> str:
        """The service that it is made for."""
        return self.repository.rpartition("/")[2]

    @property
    def reference(self) -> str:
        """Its name by tag."""
        return f"{self.repository}:{self.release}"

    @property
    def by_digest(self) -> str:
        """Its name by digest."""
        return f"{self.repository}@{self.digest}"


def sha256(text: str) -> str:
    """A digest as Docker writes it."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def registry(releases: Iterable[str]) -> dict[str, Image]:
    """Every image of the registry, by its name with a tag and by its name with a digest."""
    found = {}
    for release in releases:
        for service in SERVICES:
            repository = f"{REGISTRY}/connectin/{service}"
            name = f"{repository}:{release}"
            image = Image(repository, release, sha256(f"manifest {name}"), sha256(f"config {name}"))
            found[image.reference] = found[image.by_digest] = image
    return found


def build_id(release: str) -> str:
    """What /app/.next/BUILD_ID of a web image holds."""
    return "build-" + release


@dataclass
class Container:
    """A container; ``ports`` maps ports of the host to its own."""

    identifier: str
    name: str
    reference: str
    image: Image
    labels: dict[str, str]
    ports: dict[int, int] = field(default_factory=dict)
    state: str = "created"
    order: int = 0
    restart: str = "no"

    @property
    def service(self) -> str:
        """The Compose service that it belongs to, '' when to none."""
        return self.labels.get("com.docker.compose.service", "")

    @property
    def project(self) -> str:
        """The Compose project that it belongs to, '' when to none."""
        return self.labels.get("com.docker.compose.project", "")


class Engine:
    """The images and containers of one host."""

    def __init__(self, host: str, root: str, images: Mapping[str, Image]) -> None:
        self.host = host
        self.root = root
        self.registry = images
        self.tags: dict[str, Image] = {}  # local names by tag
        self.digests: set[str] = set()  # local names by digest
        self.containers: dict[str, Container] = {}
        self._made = 0

    # --- images

    def find(self, reference: str) -> Image | None:
        """A local image by tag, by digest, by both, or by (the beginning of) its id."""
        if reference in self.tags:
            return self.tags[reference]
        name, _at, digest = reference.partition("@")
        if digest:
            named = f"{_untagged(name)}@{digest}"
            return self.registry.get(named) if named in self.digests else None
        known = [*self.tags.values(), *(self.registry[name] for name in self.digests)]
        wanted = reference.removeprefix("sha256:")
        if len(wanted) < 12:
            return None
        return next((image for image in known if image.identifier[7:].startswith(wanted)), None)

    def look_up(self, reference: str) -> Image:
        """The registry's image under a name. Raises EngineError when it has none."""
        name, _at, digest = reference.partition("@")
        image = self.registry.get(f"{_untagged(name)}@{digest}" if digest else name)
        if image is None:
            raise EngineError(404, f"manifest for {reference} not found: manifest unknown")
        return image

    def pull(self, reference: str) -> bool:
        """Make an image local as a pull does: a name by digest gets no tag. Returns whether it was not there."""
        image = self.look_up(reference)
        fresh = self.find(reference) is None
        self.digests.add(image.by_digest)
        if "@" not in reference:
            self.tags[reference] = image
        return fresh

    def tag(self, source: str, name: str) -> None:
        """Give a local image another name."""
        image = self.find(source)
        if image is None:
            raise EngineError(404, f"No such image: {source}")
        self.tags[name] = image

    def untag(self, reference: str) -> None:
        """Remove a name; an image that a container uses stays."""
        image = self.find(reference)
        if image is None:
            raise EngineError(404, f"No such image: {reference}")
        self.tags.pop(reference, None)
        used = any(container.image == image for container in self.containers.values())
        if image not in self.tags.values() and not used:
            self.digests.discard(image.by_digest)

    def describe_image(self, image: Image) -> dict[str, Any]:
        """What ``docker image inspect`` shows."""
        return {
            "Id": image.identifier,
            "RepoTags": sorted(name for name, known in self.tags.items() if known == image),
            "RepoDigests": [image.by_digest] if image.by_digest in self.digests else [],
            "Created": CREATED,
            "Architecture": "amd64",
            "Os": "linux",
            "Size": 180_000_000,
            "Config": {"Env": [f"RELEASE={image.release}"], "Labels": {}, "WorkingDir": "/app"},
        }

    # --- containers

    def create(
        self,
        reference: str,
        labels: Mapping[str, str],
        name: str = "",
        ports: Mapping[int, int] | None = None,
        restart: str = "no",
    ) -> Container:
        """A new container of a local image."""
        image = self.find(reference)
        if image is None:
            raise EngineError(404, f"No such image: {reference}")
        if name and any(container.name == name for container in self.containers.values()):
            raise EngineError(409, f'Conflict. The container name "/{name}" is already in use')
        self._made += 1
        identifier = sha256(f"{self.host} container {self._made}")[7:]
        made = Container(
            identifier=identifier,
            name=name or f"made_{self._made}",
            reference=reference,
            image=image,
            labels=dict(labels),
            ports=dict(ports or {}),
            order=self._made,
            restart=restart,
        )
        self.containers[identifier] = made
        return made

    def container(self, name: str) -> Container:
        """A container by its name or (the beginning of) its id. Raises EngineError."""
        for container in self.containers.values():
            if container.name == name.lstrip("/") or len(name) >= 12 and container.identifier.startswith(name):
                return container
        raise EngineError(404, f"No such container: {name}")

    def start(self, container: Container) -> None:
        """Start a container; a port of the host belongs to one only."""
        for port in container.ports:
            owner = self.serving(port)
            if owner is not None and owner is not container:
                raise EngineError(500, f"Bind for 0.0.0.0:{port} failed: port is already allocated")
        container.state = "running"

    def serving(self, port: int) -> Container | None:
        """The running container behind a port of the host."""
        running = (item for item in self.containers.values() if item.state == "running")
        return next((item for item in running if port in item.ports), None)

    def remove(self, container: Container) -> None:
        """Remove a container, whatever its state."""
        del self.containers[container.identifier]

    def of(self, project: str, services: Sequence[str] = ()) -> list[Container]:
        """The containers of a Compose project, or of some of its services, the oldest first."""
        members = (item for item in self.containers.values() if item.project == project)
        return sorted(
            (item for item in members if not services or item.service in services), key=lambda item: item.order
        )

    def describe(self, container: Container) -> dict[str, Any]:
        """What ``docker container inspect`` shows."""
        running = container.state == "running"
        health = {"Status": "healthy", "FailingStreak": 0, "Log": []} if running else None
        publishers = {
            f"{inner}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(p)}] for p, inner in container.ports.items()
        }
        return {
            "Id": container.identifier,
            "Name": f"/{container.name}",
            "Created": f"2026-01-01T00:{container.order // 60:02}:{container.order % 60:02}.000000000Z",
            "Image": container.image.identifier,
            "RestartCount": 0,
            "State": {
                "Status": container.state,
                "Running": running,
                "Paused": False,
                "Restarting": False,
                "OOMKilled": False,
                "Dead": False,
                "Pid": 4000 + container.order if running else 0,
                "ExitCode": 0,
                "Error": "",
                "StartedAt": CREATED,
                "FinishedAt": "0001-01-01T00:00:00Z",
                **({"Health": health} if health else {}),
            },
            "Config": {
                "Image": container.reference,
                "Labels": container.labels,
                "WorkingDir": "/app",
                "Env": [f"RELEASE={container.image.release}"],
                "Hostname": container.identifier[:12],
            },
            "HostConfig": {
                "RestartPolicy": {"Name": container.restart, "MaximumRetryCount": 0},
                "NetworkMode": "bridge",
            },
            "Mounts": [],
            "NetworkSettings": {
                "Ports": publishers if running else {},
                "Networks": {
                    f"{container.project or 'bridge'}_default": {
                        "IPAddress": f"172.18.0.{2 + container.order % 200}" if running else "",
                        "Aliases": [container.service],
                    }
                },
            },
        }

    def listed(self, container: Container) -> dict[str, Any]:
        """A line of ``docker container ls``."""
        return {
            "Id": container.identifier,
            "Names": [f"/{container.name}"],
            "Image": container.reference,
            "ImageID": container.image.identifier,
            "State": container.state,
            "Status": "Up 2 minutes (healthy)" if container.state == "running" else container.state,
            "Labels": container.labels,
            "Created": 1_767_225_600 + container.order,
        }

    def archive(self, container: Container, path: str) -> bytes:
        """A file of a container as a tar archive. Raises EngineError when it has none of that path."""
        if container.image.service != "web" or not path.endswith("/.next/BUILD_ID"):
            raise EngineError(404, f"Could not find the file {path} in container {container.identifier}")
        content = build_id(container.image.release).encode()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            entry = tarfile.TarInfo("BUILD_ID")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        return stream.getvalue()

    def logs(self, container: Container) -> str:
        """What a container wrote."""
        return "".join(f"GET /posts 200 {number} ms\n" for number in range(1, 21))


def page(container: Container, path: str) -> tuple[int, str, bytes]:
    """What a container answers over HTTP: status, content type, body."""
    release = container.image.release
    if container.image.service == "api":
        if path == "/health":
            return 200, "application/json", f'{{"status":"ok","database":"connected","version":"{release}"}}'.encode()
        return 404, "application/json", b'{"error":"not found"}'
    asset = f"/_next/static/{build_id(release)}/main.js"
    if path == "/":
        text = f'<!doctype html><html><head><script src="{asset}"></script></head><body>{release}</body></html>'
        return 200, "text/html; charset=utf-8", text.encode()
    if path in (asset, f"/_next/static/{build_id(release)}/_buildManifest.js"):
        return 200, "application/javascript", b"self.__BUILD=1"
    return 404, "text/html; charset=utf-8", b"<h1>404</h1>"


def _untagged(name: str) -> str:
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
