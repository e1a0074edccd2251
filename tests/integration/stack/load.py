"""Users of the sandbox: steady requests through the load balancer, counted one by one, and a browser with a held page.

Nothing here asks twice. What a user would have seen as an error is counted as one, whoever is to blame.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import http.client
import itertools
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping

ASSET = re.compile(r'(?:src|href)="(/_next/static/[^"]+)"')
CHUNK = re.compile(r"static/chunks/[\w.~-]+\.(?:js|css)")
RELEASE = re.compile(r'data-release="([^"]+)"')
# How often each kind is asked for, in this proportion.
MIX = {"posts": 8, "page": 5, "asset": 4, "health": 2, "write": 1}


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: `at` in seconds since the load began, `failure` '' or what the user would have seen."""

    at: float
    kind: str
    path: str
    seconds: float = 0.0
    status: int = 0
    release: str = ""
    server: str = ""
    failure: str = ""
    # the title of the row that a write was answered 201 for
    written: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """Every request that was sent, in the order of sending."""

    answers: tuple[Answer, ...]

    @property
    def total(self) -> int:
        return len(self.answers)

    @property
    def failures(self) -> tuple[Answer, ...]:
        return tuple(answer for answer in self.answers if answer.failure)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def ok(self) -> int:
        return self.total - self.failed

    @property
    def written(self) -> tuple[str, ...]:
        """The titles of the rows that were acknowledged: each has to be in the database once."""
        return tuple(answer.written for answer in self.answers if answer.written)

    def of(self, *kinds: str) -> Result:
        return Result(tuple(answer for answer in self.answers if answer.kind in kinds))

    def between(self, start: float, end: float) -> Result:
        return Result(tuple(answer for answer in self.answers if start <= answer.at < end))

    def releases(self) -> dict[str, tuple[int, float, float]]:
        """{release: (answers, first, last)} of those that say it, times in seconds since the load began."""
        seen: dict[str, list[float]] = collections.defaultdict(list)
        for answer in self.answers:
            if answer.release:
                seen[answer.release].append(answer.at)
        return {release: (len(times), min(times), max(times)) for release, times in seen.items()}

    def lines(self) -> list[str]:
        """What a person wants to read, the failures last."""
        ended = max((answer.at for answer in self.answers), default=0.0)
        lines = [f"{self.total} requests in {ended:.1f} s: {self.ok} ok, {self.failed} failed"]
        by_kind = collections.Counter(
            (answer.kind, answer.release, answer.server) for answer in self.answers if not answer.failure
        )
        for (kind, release, server), count in sorted(by_kind.items()):
            lines.append(f"  {kind:7} {release:8} {server:6} {count}")
        slowest = max(self.answers, key=lambda answer: answer.seconds, default=None)
        if slowest:
            lines.append(f"  slowest: {slowest.seconds:.2f} s, {slowest.kind} at {slowest.at:.1f} s")
        reasons: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
        for answer in self.failures:
            reasons[answer.kind, answer.failure].append(answer.at)
        for (kind, failure), times in sorted(reasons.items()):
            lines.append(f"  FAILED {kind:7} {len(times)} from {min(times):.1f} s to {max(times):.1f} s: {failure}")
        return lines


class _Client:
    """Connections of one user; each is used again while both sides keep it, or never."""

    def __init__(self, *, keep_alive: bool, timeout: float):
        self._keep_alive = keep_alive
        self._timeout = timeout
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def ask(self, base: str, path: str, body: object | None = None) -> tuple[int, str, Mapping[str, str]]:
        """(status, text, headers), or an exception of http.client or of the socket."""
        place = urllib.parse.urlsplit(base).netloc
        connection = self._connections.pop(place, None)
        connection = connection or http.client.HTTPConnection(place, timeout=self._timeout)
        headers = {} if self._keep_alive else {"Connection": "close"}
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            connection.request("GET" if body is None else "POST", path, body=content, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            if self._keep_alive and not answer.will_close:
                self._connections[place] = connection
            return answer.status, text, answer.headers
        finally:
            if place not in self._connections:
                connection.close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


class Load:
    """Sends `rate` requests a second while it is entered; `result` holds them all afterwards.

    `keep_alive` is the share of the `workers` that keep their connections, from 0 to 1. A request is sent at its time
    whether or not others wait for their answers, as long as a worker is free.
    """

    def __init__(
        self,
        base_url_api: str,
        base_url_web: str,
        rate: float = 100,
        *,
        keep_alive: float = 0.5,
        workers: int = 24,
        timeout: float = 10,
        mix: Mapping[str, int] = MIX,
    ):
        self._api, self._web = base_url_api.rstrip("/"), base_url_web.rstrip("/")
        self._rate, self._timeout = rate, timeout
        # Each worker meets every kind: the order is shuffled by a step that has no factor in common with the length.
        kinds = [kind for kind, count in mix.items() for _ in range(count)]
        step = next(number for number in (7, 11, 13) if len(kinds) % number)
        self._kinds = itertools.cycle([kinds[index * step % len(kinds)] for index in range(len(kinds))])
        self._keeps = [number < round(keep_alive * workers) for number in range(workers)]
        self._asset = ""
        self._answers: list[Answer] = []
        self._sent = 0
        self._news = threading.Condition()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._began = 0.0

    def __enter__(self) -> Load:
        # The first page is not counted: it only says which chunk to ask for.
        status, text, _headers = _Client(keep_alive=False, timeout=self._timeout).ask(self._web, "/")
        assert status == 200, f"{self._web}/ answers {status} before the load begins"
        self._asset = next(iter(ASSET.findall(text)), "/")
        self._name = f"load {time.time_ns()}"
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._work, args=(keeps,), daemon=True) for keeps in self._keeps]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def result(self) -> Result:
        """What was answered so far."""
        with self._news:
            return Result(tuple(sorted(self._answers, key=lambda answer: answer.at)))

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Returns once so many more requests have been answered, well or not."""
        with self._news:
            wanted = len(self._answers) + count
            assert self._news.wait_for(lambda: len(self._answers) >= wanted, seconds), f"no {count} answers came"

    def _tickets(self) -> Iterator[tuple[int, str]]:
        """The requests that fall to this worker: (number, kind), each at its time."""
        while True:
            with self._news:
                number, kind = self._sent, next(self._kinds)
                self._sent += 1
            due = self._began + number / self._rate
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            yield number, kind

    def _work(self, keeps: bool) -> None:
        client = _Client(keep_alive=keeps, timeout=self._timeout)
        for number, kind in self._tickets():
            answer = self._ask(client, number, kind)
            with self._news:
                self._answers.append(answer)
                self._news.notify_all()
        client.close()

    def _ask(self, client: _Client, number: int, kind: str) -> Answer:
        title = f"{self._name} {number}"
        base, path, body = {
            "posts": (self._api, "/posts", None),
            "health": (self._api, "/health", None),
            # `content` is what v1.2.0 calls `body`
            "write": (self._api, "/posts", {"title": title, "body": "written under load", "content": "written"}),
            "page": (self._web, "/", None),
            "asset": (self._web, self._asset, None),
        }[kind]
        started = time.monotonic()
        answer = Answer(at=started - self._began, kind=kind, path=path)
        try:
            status, text, headers = client.ask(base, path, body)
        except Exception as error:  # whatever the user's side makes of it, the request is lost
            failure = f"{type(error).__name__}: {error}"
            return dataclasses.replace(answer, seconds=time.monotonic() - started, failure=failure)
        if kind == "page" and status == 200:
            self._asset = next(iter(ASSET.findall(text)), self._asset)
        return dataclasses.replace(
            answer,
            seconds=time.monotonic() - started,
            status=status,
            release=_release(kind, text),
            server=headers.get("X-Server") or "",
            failure=_failure(kind, status, text),
            written=title if kind == "write" and status == 201 else "",
        )


def _release(kind: str, text: str) -> str:
    if kind == "page":
        return "".join(RELEASE.findall(text)[:1])
    if kind == "health":
        try:
            return str(json.loads(text)["version"])
        except (ValueError, TypeError, KeyError):
            return ""
    return ""


def _failure(kind: str, status: int, text: str) -> str:
    """'' for what a user is content with. Every request is a right one, so 4xx is a failure too."""
    if status >= 400:
        return f"status {status}"
    if kind == "page" and not text.rstrip().endswith("</html>"):
        return "truncated page"
    if kind == "page" and 'data-error="posts"' in text:
        return "the page says that posts cannot be shown"
    return ""


class Browser:
    """One user who holds a page: its assets, asked for again later, have to be there and the same."""

    def __init__(self, base_url_web: str, timeout: float = 10):
        self._web = base_url_web.rstrip("/")
        self._timeout = timeout
        self.release = ""
        self.assets: dict[str, str] = {}

    def load(self) -> Browser:
        """Opens the page and every asset it may ask for while it stays open.

        Chunks that are loaded later are named in the scripts; a build's own manifests are not named at all.
        """
        status, text = self._ask("/")
        assert status == 200, f"{self._web}/ answers {status}"
        self.release = "".join(RELEASE.findall(text)[:1])
        self.assets = {}
        manifests = [f"/_next/static/{self.release}/_{name}.js" for name in ("buildManifest", "ssgManifest")]
        waiting = [*ASSET.findall(text), *(manifests if self.release else [])]
        while waiting:
            path = waiting.pop()
            if path not in self.assets:
                status, text = self._ask(path)
                assert status == 200, f"{self._web}{path} answers {status}"
                self.assets[path] = _digest(text)
                waiting += [f"/_next/{name}" for name in CHUNK.findall(text)]
        return self

    def broken_assets(self, times: int = 1) -> list[str]:
        """What the held page misses now, 'PATH: reason'; each is asked for so many times, over new connections."""
        broken = []
        for path, digest in list(self.assets.items()) * times:
            try:
                status, text = self._ask(path)
            except (OSError, http.client.HTTPException) as error:
                broken.append(f"{path}: {type(error).__name__}: {error}")
                continue
            if status != 200:
                broken.append(f"{path}: status {status}")
            elif _digest(text) != digest:
                broken.append(f"{path}: other content")
        return broken

    def _ask(self, path: str) -> tuple[int, str]:
        return _Client(keep_alive=False, timeout=self._timeout).ask(self._web, path)[:2]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
