# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether endpoints are healthy: what is expected of an answer, how often in a row, and by when.

Nothing here asks the network or the clock: answers come in, and so do moments, as seconds of a monotonic clock.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlsplit

REDIRECTS = (301, 302, 303, 307, 308)
SHOWN_CHARACTERS = 500
# A longer JSON body is judged whole but shown in part: hundreds of them in one result would choke the controller.
SHOWN_JSON_CHARACTERS = 20_000
KEPT_FAILURES = 5

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


class HealthError(Exception):
    """Nothing can be polled as it was asked for; the text is for the operator."""


@dataclass(frozen=True)
class Endpoint:
    """One address and what is expected of it. ``body`` is a JMESPath expression; '' expects nothing."""

    name: str
    url: str
    host: str = ""
    status: tuple[int, ...] = (200,)
    body: str = ""
    contains: str = ""
    assets_prefix: str = ""
    headers: Mapping[str, str] | None = None

    @property
    def secure(self) -> bool:
        """Whether it is asked over TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.name} on {self.host}" if self.host else self.name


@dataclass(frozen=True)
class Answer:
    """What came back. ``error`` says why there was no whole answer, and then ``status`` is 0."""

    status: int = 0
    text: str = ""
    location: str = ""
    error: str = ""
    elapsed_ms: int = 0


@dataclass(frozen=True)
class Attempt:
    """An answer and what is wrong with it, '' when nothing is."""

    answer: Answer
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far one endpoint has come. ``seconds`` from the start to when it was ready, None while it is not."""

    endpoint: Endpoint
    attempts: int = 0
    streak: int = 0
    answer: Answer | None = None
    failures: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def ready(self) -> bool:
        return self.seconds is not None


def endpoint(raw: Mapping[str, Any]) -> Endpoint:
    """The endpoint that an element of the option ``endpoints`` describes. Raises HealthError where it cannot be one."""
    name, url = raw["name"], raw["url"]

    def refuse(found: str, advice: str) -> HealthError:
        return HealthError(f"The endpoint {name!r} cannot be polled: {found}. {advice}")

    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise refuse(f"{url!r} is no http or https address", "Give it a url like http://127.0.0.1:3000/health.")
    if parts.username or parts.password:
        # Not shown: an address ends up in results and logs.
        raise refuse("its url holds a user or a password", "Move these into headers, as Authorization.")
    if not raw["status"]:
        raise refuse("its list status is empty", "Name the expected ones, like [200].")
    prefix = raw["assets_prefix"] or ""
    if prefix and (not prefix.startswith("/") or prefix.startswith("//")):
        raise refuse(
            f"its assets_prefix {prefix!r} is no path on the same host",
            "Give it one that starts with a single slash, like /_next/static/.",
        )
    headers = {str(key): str(value) for key, value in (raw["headers"] or {}).items()}
    for header, value in headers.items():
        if not _HEADER_NAME.fullmatch(header) or not _HEADER_VALUE.fullmatch(value):
            # The value is not shown: it may be a token, and a stray line end is what tokens read from files have.
            raise refuse(
                f"its header {header!r} holds a line end or a character that HTTP cannot carry",
                "Correct its name and its value (the filter trim removes a line end).",
            )
    return Endpoint(
        name=name,
        url=url,
        host=raw["host"] or "",
        status=tuple(raw["status"]),
        body=raw["body"] or "",
        contains=raw["contains"] or "",
        assets_prefix=prefix,
        headers=headers,
    )


def compile_expressions(endpoints: Sequence[Endpoint], jmespath: Any) -> dict[str, Callable[[Any], Any]]:
    """Each JMESPath expression in use as a function of a parsed body. Raises HealthError that names a bad one.

    ``jmespath`` is the module of that name.
    """
    compiled = {}
    for asked in endpoints:
        if not asked.body or asked.body in compiled:
            continue
        try:
            expression = jmespath.compile(asked.body)
        except jmespath.exceptions.JMESPathError as error:
            problem = " ".join(str(error).split())
        else:
            # jmespath itself only notices these on the way through a body, and not behind a short cut such as &&.
            unknown = sorted(set(_functions(expression.parsed)) - set(jmespath.functions.Functions.FUNCTION_TABLE))
            problem = f"there is no function {', '.join(unknown)}()" if unknown else ""
        if problem:
            raise HealthError(
                f"The endpoint {asked.name!r} cannot be polled: its body {asked.body!r} is no JMESPath expression "
                f"({problem}). Correct it, for example: status == 'ok'"
            )
        compiled[asked.body] = expression.search
    return compiled


def attempt(asked: Endpoint, get: Callable[[str], Answer], search: Callable[[Any], Any] | None) -> Attempt:
    """Ask an endpoint once, and the assets of its page where these are expected.

    ``get`` takes a path on the endpoint's host and never raises; ``search`` is the compiled ``asked.body``.
    """
    answer = get(request_target(asked.url))
    reason = judge(asked, answer, search)
    if not reason and asked.assets_prefix:
        paths = asset_paths(answer.text, asked.assets_prefix)
        reason = judge_assets(asked.assets_prefix, [(path, get(request_target(path))) for path in paths])
    return Attempt(answer, reason)


def judge(asked: Endpoint, answer: Answer, search: Callable[[Any], Any] | None) -> str:
    """What is wrong with an answer, '' when it is as expected."""
    if answer.error:
        return answer.error
    if answer.status not in asked.status:
        expected = " or ".join(map(str, asked.status))
        if answer.status in REDIRECTS:
            # Without the query: it may carry a token.
            target = answer.location.partition("?")[0] or "nowhere"
            return f"answered {answer.status} to {target}, expected {expected} (redirects are not followed)"
        return f"answered {answer.status}, expected {expected}"
    if asked.contains and asked.contains not in answer.text:
        return f"the body does not contain {asked.contains!r}"
    if search is None:
        return ""
    try:
        body = parse_json(answer.text)
    except ValueError:
        return "the body is no JSON"
    try:
        # Python's truth, as everywhere in Ansible: 0 is not truthy, which it would be in JMESPath.
        return "" if search(body) else f"the body does not hold {asked.body!r}"
    except ValueError as error:
        return f"the body does not fit {asked.body!r}: {' '.join(str(error).split())}"


def judge_assets(prefix: str, answers: Sequence[tuple[str, Answer]]) -> str:
    """What is wrong with the assets of a page, '' when there are some and all of them answered 200."""
    if not answers:
        # An error page has none either, so none is no proof.
        return f"the page names no asset that starts with {prefix}"
    bad = [(path, answer) for path, answer in answers if answer.error or answer.status != 200]
    if not bad:
        return ""
    path, answer = bad[0]
    return f"{len(bad)} of {len(answers)} assets failed: {path} {answer.error or f'answered {answer.status}'}"


def asset_paths(html: str, prefix: str) -> list[str]:
    """The distinct values of src and href in a page that start with ``prefix``, in their order."""
    reader = _Links()
    reader.feed(html)
    reader.close()
    found = (link.partition("#")[0] for link in reader.links)
    return list(dict.fromkeys(link for link in found if link.startswith(prefix) and not link.startswith("//")))


def request_target(url: str) -> str:
    """The path and query of an address, as they go over the wire."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe="%/:=&?~+!$,;'@()*[]")


def parse_json(text: str) -> Any:
    """Parse strict JSON. Raises ValueError for anything else, NaN and a nesting beyond all reason included."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def shown_body(answer: Answer | None) -> Any:
    """The parsed JSON of an answer, else the beginning of its text; None when there was no answer."""
    if answer is None or answer.error:
        return None
    if len(answer.text) <= SHOWN_JSON_CHARACTERS:
        try:
            return parse_json(answer.text)
        except ValueError:
            pass
    return answer.text[:SHOWN_CHARACTERS]


class Poll:
    """The state of a whole poll: who is to be asked when, and who is ready.

    The caller takes what is ``due``, asks, hands each attempt to ``answered``, and goes on until it is ``over``.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], consecutive: int, interval: float, deadline: float, now: float
    ) -> None:
        self.progress = [Progress(asked) for asked in endpoints]
        self.ends = now + deadline
        self._started = now
        self._consecutive = consecutive
        self._interval = interval
        self._deadline = deadline
        self._waiting = [(now, index) for index in range(len(endpoints))]

    def due(self, now: float) -> Iterator[int]:
        """The indices of the endpoints to ask now; each comes again only after it was answered."""
        while self._waiting and self._waiting[0][0] <= now:
            yield heapq.heappop(self._waiting)[1]

    def answered(self, index: int, made: Attempt, now: float) -> None:
        """Take in an attempt that ended now."""
        before = self.progress[index]
        streak = 0 if made.reason else before.streak + 1
        failures = before.failures
        if made.reason:
            failures = (*(known for known in failures if known != made.reason), made.reason)[-KEPT_FAILURES:]
        ready = streak >= self._consecutive
        self.progress[index] = replace(
            before,
            attempts=before.attempts + 1,
            streak=streak,
            answer=made.answer,
            failures=failures,
            seconds=now - self._started if ready else None,
        )
        if not ready:
            heapq.heappush(self._waiting, (now + self._interval, index))

    def over(self, now: float) -> bool:
        """Whether every endpoint is ready, or the deadline has passed."""
        return now >= self.ends or all(progress.ready for progress in self.progress)

    def wait(self, now: float) -> float:
        """How many seconds nothing is to be done unless an attempt ends."""
        following = min([self.ends, *(moment for moment, _index in self._waiting[:1])])
        return max(0.0, following - now)

    def report(self, now: float) -> dict[str, Any]:
        """``{ready, endpoints, not_ready, seconds}``, in the order of the endpoints."""
        spent = now - self._started
        return {
            "ready": all(progress.ready for progress in self.progress),
            "endpoints": [self._endpoint_report(progress, spent) for progress in self.progress],
            # Not "failed": that key of a result is Ansible's own.
            "not_ready": [
                {
                    "name": progress.endpoint.name,
                    "host": progress.endpoint.host,
                    "url": progress.endpoint.url,
                    "reason": self._reason(progress),
                }
                for progress in self.progress
                if not progress.ready
            ],
            "seconds": round(spent, 3),
        }

    def message(self) -> str:
        """What is not ready and why, for people."""
        late = [progress for progress in self.progress if not progress.ready]
        listed = "; ".join(
            f"{progress.endpoint.title} ({progress.endpoint.url}): {self._reason(progress)}" for progress in late
        )
        return (
            f"{len(late)} of {len(self.progress)} endpoints were not ready within {self._deadline:g} s: {listed}. "
            f"See for yourself, from the host that polled, with: curl -sv '{late[0].endpoint.url}'"
        )

    def _reason(self, progress: Progress) -> str:
        if progress.attempts == 0:
            return f"no answer within the deadline of {self._deadline:g} s"
        if progress.streak == 0:
            return progress.failures[-1]
        earlier = f", before that {progress.failures[-1]}" if progress.failures else ""
        return f"as expected only {progress.streak} of {self._consecutive} times in a row{earlier}"

    @staticmethod
    def _endpoint_report(progress: Progress, spent: float) -> dict[str, Any]:
        return {
            "name": progress.endpoint.name,
            "host": progress.endpoint.host,
            "url": progress.endpoint.url,
            "ready": progress.ready,
            "status": progress.answer.status if progress.answer else 0,
            "body": shown_body(progress.answer),
            "elapsed_ms": progress.answer.elapsed_ms if progress.answer else 0,
            "attempts": progress.attempts,
            "failures": list(progress.failures),
            "seconds": round(spent if progress.seconds is None else progress.seconds, 3),
        }


class _Links(HTMLParser):
    """Collects every src and href of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links.extend(value.strip() for name, value in attrs if name in ("src", "href") and value)


def _functions(node: Mapping[str, Any]) -> Iterator[str]:
    """The names of the functions called in a parsed JMESPath expression."""
    if node.get("type") == "function_expression":
        yield node["value"]
    for child in node.get("children", ()):
        if isinstance(child, Mapping):
            yield from _functions(child)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
