# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Docker Engine's API over its unix socket, by one connection.

Reading an image needs a container of it, which is created, never started, and removed again.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import tarfile
import urllib.parse
from typing import Any

DEFAULT_SOCKET = "/var/run/docker.sock"
# A build id is a line; whatever is larger is not one, and must not fill this process.
FILE_LIMIT = 64 * 1024
# The label of a container that is only read; one that a killed run left behind is found by it.
READING = "connectin.rollback.reading"
# Logs are asked for by lines, and a line has no limit; more than this of one container is not kept.
LOG_LIMIT = 64 * 1024 * 1024


class EngineError(Exception):
    """A request failed; ``kind`` is ``down``, ``permission``, ``remote`` or ``http``; ``status`` is 0 without one."""

    def __init__(self, kind: str, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket; OSError says why it cannot be."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path(docker_host: str) -> str:
    """The socket that DOCKER_HOST names ('' is the default one). Raises EngineError when it names no unix socket."""
    if not docker_host:
        return DEFAULT_SOCKET
    if docker_host.startswith("unix://"):
        return docker_host[len("unix://") :]
    raise EngineError("remote", f"DOCKER_HOST is {docker_host.split('@')[-1]}, not a unix socket")


class Engine:
    """One engine. Every method raises EngineError; a missing object is None, not an error."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self.path = path
        self._connection = _UnixConnection(path, timeout)

    def close(self) -> None:
        """Give the socket back."""
        self._connection.close()

    def version(self) -> str:
        """The engine's version, like ``26.1.5``."""
        return str(_mapping(self._json("/version")).get("Version") or "")

    def root_dir(self) -> str:
        """The directory that holds images and volumes."""
        return str(_mapping(self._json("/info")).get("DockerRootDir") or "")

    def containers(self, label: str) -> list[dict[str, Any]]:
        """All containers with the label (``key`` or ``key=value``), whatever their state, as inspected."""
        filters = json.dumps({"label": [label]})
        listed = self._json(f"/containers/json?all=1&filters={urllib.parse.quote(filters)}")
        found = []
        for entry in listed if isinstance(listed, list) else []:
            # One that went away since it was listed is no longer of interest.
            container = self.container(entry["Id"])
            if container is not None:
                found.append(container)
        return found

    def container(self, identifier: str) -> dict[str, Any] | None:
        """What ``docker container inspect`` shows."""
        return self._json(f"/containers/{identifier}/json", missing_is_none=True)

    def image(self, reference: str) -> dict[str, Any] | None:
        """What ``docker image inspect`` shows, None when it is not local."""
        return self._json(f"/images/{_name(reference)}/json", missing_is_none=True)

    def distribution_digest(self, reference: str, auth: str) -> str:
        """The digest that the registry has for a reference. ``auth`` is the content of X-Registry-Auth, or ''."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        answer = _mapping(self._json(f"/distribution/{_name(reference)}/json", headers))
        return str(_mapping(answer.get("Descriptor")).get("digest") or "")

    def read_file(self, container: str, path: str) -> str | None:
        """The text of a file in a container, running or not; one symbolic link is followed. None when there is none."""
        for _attempt in range(2):
            query = urllib.parse.urlencode({"path": path})
            status, body = self._request("GET", f"/containers/{container}/archive?{query}", limit=FILE_LIMIT * 2)
            if status != 200:
                return None
            try:
                with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
                    member = archive.next()
                    if member is None:
                        return None
                    if member.issym():
                        path = urllib.parse.urljoin(path, member.linkname)
                        continue
                    content = archive.extractfile(member) if member.isfile() else None
                    return content.read(FILE_LIMIT).decode("utf-8", errors="replace") if content else None
            except tarfile.TarError:
                return None
        return None

    def image_folder(self, reference: str, path: str, limit: int) -> bytes | None:
        """A folder of a local image as a tar archive of at most ``limit`` bytes; None without such a folder."""
        # An image that Compose built names its project, and a container of it would be taken for one of the stack.
        labels = {READING: "1", "com.docker.compose.project": ""}
        container = self.create({"Image": reference, "Entrypoint": ["/"], "Labels": labels, "NetworkDisabled": True})
        try:
            query = urllib.parse.urlencode({"path": path})
            status, archive = self._request("GET", f"/containers/{container}/archive?{query}", limit=limit)
            return archive if status == 200 else None
        finally:
            # What was read is read, whatever becomes of the container.
            self._request("DELETE", f"/containers/{container}?force=1&v=1")

    def create(self, config: dict[str, Any], name: str = "") -> str:
        """Create a container and do not start it; its id. An image that is not local is an error of status 404."""
        query = f"?{urllib.parse.urlencode({'name': name})}" if name else ""
        headers = {"Content-Type": "application/json"}
        status, answer = self._request("POST", f"/containers/create{query}", headers, body=json.dumps(config))
        if status == 404:
            raise EngineError("http", f"no image {config['Image']} on this host", status)
        created = _parsed(answer)
        if status >= 400 or not _mapping(created).get("Id"):
            said = _message(created) or "no reason given"
            raise EngineError("http", f"a container of {config['Image']} cannot be created: {said}", status)
        return str(created["Id"])

    def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes; one that is gone already is no error."""
        self._do("DELETE", f"/containers/{container}?force=1&v=1", also=(404,))

    def start(self, container: str) -> None:
        """Start a container; one that runs stays as it is."""
        self._do("POST", f"/containers/{container}/start", also=(304,))

    def stop(self, container: str) -> None:
        """Send the container's own stop signal and wait for its own grace period; the engine kills it after that."""
        self._do("POST", f"/containers/{container}/stop", also=(304, 404))

    def rename(self, container: str, name: str) -> None:
        """Give a container a name that is free."""
        self._do("POST", f"/containers/{container}/rename?{urllib.parse.urlencode({'name': name})}")

    def folder(self, container: str, path: str, limit: int) -> bytes | None:
        """A folder of a container, running or not, as a tar archive; None without one, or when it is larger."""
        query = urllib.parse.urlencode({"path": path})
        status, archive = self._request("GET", f"/containers/{container}/archive?{query}", limit=limit + 1)
        return archive if status == 200 and len(archive) <= limit else None

    def unpack(self, container: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder of a container, running or not."""
        query = urllib.parse.urlencode({"path": path, "noOverwriteDirNonDir": "1"})
        self._do("PUT", f"/containers/{container}/archive?{query}", archive)

    def logs(self, container: str, lines: int, tty: bool) -> str:
        """The last lines of a container's log, each with its time; of more than LOG_LIMIT bytes the first."""
        query = urllib.parse.urlencode({"stdout": 1, "stderr": 1, "timestamps": 1, "tail": lines})
        status, answer = self._request("GET", f"/containers/{container}/logs?{query}", limit=LOG_LIMIT)
        if status >= 400:
            raise EngineError("http", _message(_parsed(answer)) or f"status {status}", status)
        return (answer if tty else demultiplexed(answer)).decode("utf-8", errors="replace")

    def _do(self, method: str, path: str, archive: bytes | None = None, also: tuple[int, ...] = ()) -> None:
        """Change something; a status in ``also`` says that it is so already."""
        headers = {"Content-Type": "application/x-tar"} if archive is not None else {}
        status, answer = self._request(method, path, headers, body=archive)
        if status >= 300 and status not in also:
            raise EngineError("http", _message(_parsed(answer)) or f"status {status}", status)

    def _json(self, path: str, headers: dict[str, str] | None = None, missing_is_none: bool = False) -> Any:
        status, body = self._request("GET", path, headers)
        if status == 404 and missing_is_none:
            return None
        answer = _parsed(body)
        if status >= 400:
            raise EngineError("http", _message(answer) or f"status {status}", status)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        limit: int = -1,
        body: str | bytes | None = None,
    ) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body=body, headers=headers or {})
            response = self._connection.getresponse()
            answer = response.read() if limit < 0 else response.read(limit)
            if not response.isclosed():
                # The rest of an answer that is too large is not wanted: the next request gets a new connection.
                self._connection.close()
            return response.status, answer
        except PermissionError as error:
            self._connection.close()
            raise EngineError("permission", f"{self.path}: permission denied") from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise EngineError("down", f"{self.path}: {_reason(error)}") from error


def demultiplexed(stream: bytes) -> bytes:
    """What a container without a terminal wrote: the engine sends it in frames of a type, three zeros and a length."""
    written, position = [], 0
    while position + 8 <= len(stream):
        length = int.from_bytes(stream[position + 4 : position + 8], "big")
        written.append(stream[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(written)


def _parsed(body: bytes) -> Any:
    """JSON as it is, anything else as text."""
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return body.decode("utf-8", errors="replace")


def _name(reference: str) -> str:
    return urllib.parse.quote(reference, safe="/:@")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _message(answer: Any) -> str:
    return str(_mapping(answer).get("message") or "") if isinstance(answer, dict) else str(answer).strip()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return f"{type(error).__name__} {error}".strip()
