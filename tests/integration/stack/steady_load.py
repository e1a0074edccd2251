"""A steady load of users, and one user's browser: what they lose while the stack changes under them."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field


@dataclass
class Load:
    """Requests at a fixed rate until ``stop``: pages, reads and writes, on kept connections and on fresh ones.

    ``lost`` holds what a user would call an error: no answer, or a status of 400 and above.
    """

    api: str
    web: str
    rate: int = 60
    sent: int = 0
    lost: list[str] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)

    # Reads, writes and pages as 4 : 4 : 2, half of each on a connection that is kept.
    KINDS = ("get", "post", "get once", "post once", "get", "post once", "page", "get once", "post", "page once")
    WORKERS = 24

    def __enter__(self) -> Load:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._numbers = itertools.count()
        self._name = uuid.uuid4().hex[:8]
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.WORKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self) -> None:
        kept: dict[str, http.client.HTTPConnection] = {}
        while True:
            with self._lock:
                number = next(self._numbers)
            # Whoever is late sends at once: a stack that stands still meets all of the users afterwards.
            if self._ended.wait(max(0.0, self._began + number / self.rate - time.monotonic())):
                return
            self._send(kept, self.KINDS[number % len(self.KINDS)], f"{self._name}-{number}")

    def _send(self, kept: dict[str, http.client.HTTPConnection], kind: str, title: str) -> None:
        what, _space, once = kind.partition(" ")
        place = urllib.parse.urlsplit(self.web if what == "page" else self.api)
        connection = None if once else kept.get(place.netloc)
        if connection is None:
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=25)
        if not once:
            kept[place.netloc] = connection
        headers = {"Content-Type": "application/json", **({"Connection": "close"} if once else {})}
        body = json.dumps({"title": title, "body": "steady load", "author": "load"}) if what == "post" else None
        problem = ""
        try:
            path = "/" if what == "page" else "/posts"
            connection.request("POST" if what == "post" else "GET", path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                problem = f"{kind}: {answer.status} {text[:100].decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"{kind}: {type(error).__name__} {error}"
            kept.pop(place.netloc, None)
        if once or problem:
            connection.close()
        with self._lock:
            self.sent += 1
            if problem:
                self.lost.append(problem)
            elif what == "post":
                self.posted.append(title)


def fetched(url: str) -> tuple[int, str]:
    """(status, SHA-256 of what came); status 0 without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, hashlib.sha256(answer.read()).hexdigest()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def open_page(url: str) -> dict[str, str]:
    """What a browser that opens a page may ask for while the page stays open: the path of each asset, and its hash.

    Chunks that are loaded later, and the build's manifests, are named in the scripts.
    """
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    release = re.search(r'data-release="([^"]+)"', text)[1]
    waiting = set(re.findall(r"/_next/static/[\w./~-]+\.(?:js|css)", text))
    waiting |= {f"/_next/static/{release}/_{name}.js" for name in ("buildManifest", "ssgManifest")}
    assets: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        with urllib.request.urlopen(urllib.parse.urljoin(url, path), timeout=10) as answer:
            content = answer.read()
        assets[path] = hashlib.sha256(content).hexdigest()
        named = re.findall(r"static/chunks/[\w.~-]+\.(?:js|css)", content.decode("utf-8", "replace"))
        waiting |= {f"/_next/{name}" for name in named} - assets.keys()
    return assets


def missing(url: str, assets: dict[str, str]) -> list[str]:
    """The assets that are not there any more, or are not what they were."""
    answers = {path: fetched(urllib.parse.urljoin(url, path)) for path in assets}
    return [f"{path}: {answers[path][0]}" for path in sorted(assets) if answers[path] != (200, assets[path])]
