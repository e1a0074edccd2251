# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Docker Engine's API over its unix socket, for what changes containers."""

from __future__ import annotations

import json
import urllib.parse

from ansible_collections.connectin.rollback.plugins.module_utils import _docker_engine


class Containers(_docker_engine.Engine):
    """Every method raises EngineError; asking for what is so already is no error."""

    def start(self, container: str) -> None:
        """Start a container; one that runs stays as it is."""
        self._do("POST", f"/containers/{container}/start", also=(304,))

    def stop(self, container: str) -> None:
        """Send the container's own stop signal and wait for its own grace period; the engine kills it after that."""
        self._do("POST", f"/containers/{container}/stop", also=(304, 404))

    def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, as Compose does; one that is gone is no error."""
        self._do("DELETE", f"/containers/{container}?force=1&v=1", also=(404,))

    def rename(self, container: str, name: str) -> None:
        """Give a container a name that is free."""
        self._do("POST", f"/containers/{container}/rename?name={urllib.parse.quote(name)}")

    def folder(self, container: str, path: str, limit: int) -> bytes | None:
        """A folder of a container, running or not, as a tar archive; None without one, or when it is larger."""
        query = urllib.parse.urlencode({"path": path})
        status, archive = self._request("GET", f"/containers/{container}/archive?{query}", limit=limit + 1)
        return archive if status == 200 and len(archive) <= limit else None

    def unpack(self, container: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder of a container, running or not."""
        query = urllib.parse.urlencode({"path": path, "noOverwriteDirNonDir": "1"})
        self._do("PUT", f"/containers/{container}/archive?{query}", archive)

    def last_lines(self, container: str, count: int) -> list[str]:
        """The last lines that a container wrote, at most ``count``."""
        query = f"stdout=1&stderr=1&tail={count}"
        _status, body = self._request("GET", f"/containers/{container}/logs?{query}", limit=256 * 1024)
        return [line.strip() for line in unframed(body).splitlines() if line.strip()]

    def _do(self, method: str, path: str, archive: bytes | None = None, also: tuple[int, ...] = ()) -> None:
        headers = {"Content-Type": "application/x-tar"} if archive is not None else {}
        status, body = self._request(method, path, headers, body=archive)
        if status >= 300 and status not in also:
            raise _docker_engine.EngineError("http", _message(body) or f"status {status}", status)


def unframed(stream: bytes) -> str:
    """The text in a log stream; without a terminal the engine puts 8 bytes before each piece, 4 of them its length."""
    text = b""
    rest = stream
    while len(rest) >= 8 and rest[0] in (0, 1, 2) and rest[1:4] == b"\0\0\0":
        length = int.from_bytes(rest[4:8], "big")
        text += rest[8 : 8 + length]
        rest = rest[8 + length :]
    return (text + rest).decode("utf-8", errors="replace")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body).get("message") or "")
    except (ValueError, AttributeError):
        return body.decode("utf-8", errors="replace").strip()[:200]
