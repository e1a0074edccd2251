# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks many HTTP endpoints at once.

http.client rather than open_url: that one loads the CA bundle at every call, which made a poll of 200 endpoints three
times as slow. No proxy is used: what is polled are the hosts themselves.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.connectin.rollback.plugins.module_utils._health import (
    Answer,
    Attempt,
    Endpoint,
    HealthError,
    Poll,
    attempt,
)

# Beyond any health body or page; it keeps an endless answer from filling the memory.
MAX_BODY = 8 * 1024 * 1024
_CHUNK = 64 * 1024


def tls_context(validate: bool, ca_path: str | None) -> ssl.SSLContext:
    """One context for all connections: loading the CA bundle takes longer than a request."""
    try:
        context = ssl.create_default_context()
        if ca_path:
            context.load_verify_locations(cafile=ca_path)
    except OSError as error:  # ssl.SSLError is one
        raise HealthError(
            f"The certificates in {ca_path} cannot be loaded ({error.strerror or error}). "
            "Set ca_path to a readable PEM file, or leave it out."
        ) from error
    if not validate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """Asks one endpoint, over one connection that lasts for its page and the assets of that."""

    def __init__(self, asked: Endpoint, timeout: float, context: ssl.SSLContext | None, clock: Callable[[], float]):
        parts = urlsplit(asked.url)
        host = parts.hostname or ""
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
        self._headers = {"User-Agent": "connectin.rollback", "Accept": "*/*", **(asked.headers or {})}
        self._timeout = timeout
        self._clock = clock

    def get(self, target: str) -> Answer:
        """GET a path. Whatever goes wrong is told in the answer."""
        started = self._clock()
        try:
            status, location, content = self._ask(target, started + self._timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # A connection that failed is in no state to be asked again.
            self.close()
            return Answer(error=self._describe(error), elapsed_ms=self._since(started))
        text = content.decode("utf-8", errors="replace")
        return Answer(status=status, text=text, location=location, elapsed_ms=self._since(started))

    def close(self) -> None:
        self._connection.close()

    def _ask(self, target: str, ends: float) -> tuple[int, str, bytes]:
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._timeout)
        self._connection.request("GET", target, headers=self._headers)
        # Kept, since the connection lets go of it when the server is going to close.
        stream = self._connection.sock
        response = self._connection.getresponse()
        # Counted here: read1 of Python before 3.13 does not count, and would wait for more after the last byte.
        expected = response.length
        content = b""
        while not response.isclosed() and (expected is None or len(content) < expected):
            left = ends - self._clock()
            if left <= 0:
                raise socket.timeout
            # The timeout of a socket starts anew with every byte: without this, a drip would last for ever.
            stream.settimeout(left)
            # read1 returns what is there, read would wait for all of it.
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            content += chunk
            if len(content) > MAX_BODY:
                raise ValueError(f"the body is longer than {MAX_BODY // 1024 // 1024} MiB")
        if expected is not None and len(content) < expected:
            raise http.client.IncompleteRead(content, expected)
        # The connection stays: it is asked for the assets of the page next.
        response.close()
        return response.status, response.getheader("Location", ""), content

    def _since(self, started: float) -> int:
        return round((self._clock() - started) * 1000)

    def _describe(self, error: Exception) -> str:
        """The error in a few words, the same ones each time."""
        # Most special first: the TLS errors, timeouts and resolver errors are OSErrors too.
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the TLS certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
        if isinstance(error, socket.timeout):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, socket.gaierror):
            return f"the host name is not resolved: {error.strerror}"
        if isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
            return "the connection was closed without an answer"
        if isinstance(error, http.client.IncompleteRead):
            return "the answer broke off"
        if isinstance(error, http.client.HTTPException):
            return "the answer is no HTTP"
        if isinstance(error, OSError):
            return (error.strerror or str(error)).lower()
        return str(error)


def run(
    poll: Poll,
    searches: Mapping[str, Callable[[Any], Any]],
    timeout: float,
    threads: int,
    context: ssl.SSLContext | None,
    clock: Callable[[], float],
) -> None:
    """Poll until it is over, with up to ``threads`` requests at a time. ``searches`` as of compile_expressions.

    Returns at the deadline even if an answer is still out, so the threads must not be waited for: they are daemons.
    """
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple[int, Attempt]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            index = asked.get()
            one = poll.progress[index].endpoint
            client = Client(one, timeout, context, clock)
            made.put((index, attempt(one, client.get, searches.get(one.body))))
            client.close()

    for _number in range(min(threads, len(poll.progress))):
        threading.Thread(target=work, daemon=True).start()
    while not poll.over(clock()):
        for index in poll.due(clock()):
            asked.put(index)
        try:
            index, ended = made.get(timeout=poll.wait(clock()))
        except queue.Empty:
            continue
        poll.answered(index, ended, clock())
