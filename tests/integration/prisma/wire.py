"""The line between a client and PostgreSQL, read statement by statement and cut where a test says so."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable

# What a fault answers for one statement. BEFORE: PostgreSQL never gets it. AFTER: PostgreSQL has done it and says so,
# and the client never hears it. SENT: the line is cut as soon as PostgreSQL has it. None: the line stays.
BEFORE, AFTER, SENT = "before", "after", "sent"
Fault = Callable[[int, str], "str | None"]

_NEGOTIATIONS = (80877103, 80877104)


def at_commit(when: str) -> Fault:
    """Cut at the first COMMIT."""
    return lambda _number, text: when if text == "COMMIT" else None


def at(number: int, when: str) -> Fault:
    """Cut at the statement of this number, from 1."""
    return lambda reached, _text: when if reached == number else None


class Proxy:
    """Hands every message on until the first cut; afterwards ``left`` more connections are let in, and then none.

    ``statements`` holds what the clients sent so far: the text of every Query and Parse message. A cut may also come
    after so many bytes from the clients (``sent``) or from PostgreSQL (``received``), wherever in a message that is.
    """

    def __init__(
        self,
        port: int,
        fault: Fault = lambda _number, _text: None,
        *,
        sent: int | None = None,
        received: int | None = None,
        left: int = 100,
    ) -> None:
        self.statements: list[str] = []
        self.cut = False
        self.errors: list[Exception] = []
        self.bytes_sent = self.bytes_received = 0
        self._to = ("127.0.0.1", port)
        self._fault = fault
        self._sent, self._received = sent, received
        self._left = left
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # close() alone would leave the thread that waits in accept() one more connection
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def url(self, url: str) -> str:
        """The same database, reached over this line."""
        return url.replace(f":{self._to[1]}/", f":{self.port}/").replace("?", "?sslmode=disable&")

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()
            if self.cut:
                self._left -= 1
                if not self._left:
                    self.close()
                    return

    def _connection(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as server:
            for side in (client, server):
                # Without this every statement would wait for an acknowledgement that is held back for 40 ms.
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A line that a client's death cut may be found dead while it is written to.
            with contextlib.suppress(OSError):
                self._pass(client, server)

    def _cuts(self) -> None:
        self.cut = True
        if not self._left:
            self.close()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        frontend = _Messages(startup=True)
        backend = _Messages(startup=False)
        # Set once the answer to a statement is to be heard and not handed on.
        swallowing = False
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                if ready is server:
                    if swallowing:
                        if any(kind == b"Z" for kind, _message in backend.of(data)):
                            return
                        continue
                    data = self._within(data, "received")
                    backend.of(data)
                    client.sendall(data)
                    if self.cut and self.bytes_received == self._received:
                        return
                    continue
                data = self._within(data, "sent")
                if self.cut and self.bytes_sent == self._sent:
                    server.sendall(data)
                    return
                messages = iter(frontend.of(data))
                for kind, message in messages:
                    when = self._asked(kind, message)
                    if when == BEFORE:
                        self._cuts()
                        return
                    swallowing = swallowing or when == AFTER
                    server.sendall(message)
                    if when:
                        self._cuts()
                    if when == SENT:
                        # A statement with parameters is several messages in one piece.
                        server.sendall(b"".join(rest for _kind, rest in messages))
                        return

    def _within(self, data: bytes, direction: str) -> bytes:
        """As much of the data as may still pass; cuts when that was the last of it."""
        limit = getattr(self, f"_{direction}")
        passed = getattr(self, f"bytes_{direction}")
        if limit is not None and not self.cut and passed + len(data) >= limit:
            data = data[: limit - passed]
            self._cuts()
        setattr(self, f"bytes_{direction}", passed + len(data))
        return data

    def _asked(self, kind: bytes, message: bytes) -> str | None:
        if kind not in (b"Q", b"P"):
            return None
        # Query: the text. Parse: the name of the prepared statement, then the text.
        body = message[5:].split(b"\0")[0 if kind == b"Q" else 1]
        self.statements.append(body.decode())
        try:
            return None if self.cut else self._fault(len(self.statements), self.statements[-1])
        except Exception as error:
            # Nobody looks into this thread.
            self.errors.append(error)
            return BEFORE


class _Messages:
    """Takes a stream of bytes apart into whole messages, each with its kind (b"" for those before the login)."""

    def __init__(self, startup: bool) -> None:
        self._startup = startup
        self._data = b""

    def of(self, data: bytes) -> list[tuple[bytes, bytes]]:
        self._data += data
        found = []
        while True:
            head = 0 if self._startup else 1
            if len(self._data) < head + 4:
                return found
            length = head + struct.unpack_from("!I", self._data, head)[0]
            if len(self._data) < length:
                return found
            message, self._data = self._data[:length], self._data[length:]
            found.append((message[:head], message))
            if self._startup and struct.unpack_from("!I", message, 4)[0] not in _NEGOTIATIONS:
                self._startup = False
