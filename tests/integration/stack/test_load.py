"""The load generator counts what goes wrong: real sockets, no sandbox."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from load import Browser, Load

PAGE = '<html><script src="/_next/static/a.js"></script><main data-release="v1"></main></html>'
Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def server(answer: Handler) -> Iterator[str]:
    """A web server on a port of its own; `answer` writes what goes back."""

    class Requests(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_POST = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def send(request: http.server.BaseHTTPRequestHandler, status: int, text: str, length: int | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(text) if length is None else length))
    request.end_headers()
    request.wfile.write(text.encode())


def well(request: http.server.BaseHTTPRequestHandler) -> None:
    text = PAGE if request.path == "/" else '{"version": "v1"}'
    send(request, 201 if request.command == "POST" else 200, text)


@pytest.fixture(params=[0, 1], ids=["new connections", "kept connections"])
def keep_alive(request) -> int:
    return request.param


def test_answers_are_counted_by_kind_with_the_release_that_gave_them(keep_alive):
    with server(well) as base, Load(base, base, 1000, workers=4, keep_alive=keep_alive) as load:
        load.wait_for(100)
    result = load.result
    assert result.failed == 0
    assert result.ok == result.total >= 100
    assert set(result.releases()) == {"v1"}
    assert len(set(result.written)) == result.of("write").total > 0
    assert {answer.kind for answer in result.answers} == {"posts", "page", "asset", "health", "write"}


def cut(request: http.server.BaseHTTPRequestHandler) -> None:
    send(request, 200, "half", length=100)
    request.close_connection = True


def hang_up(request: http.server.BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (lambda request: send(request, 503, "no server"), "status 503"),
        (lambda request: send(request, 404, "no such chunk"), "status 404"),
        (cut, "IncompleteRead"),
        (hang_up, "RemoteDisconnected"),
    ],
    ids=["503", "404", "truncated", "hung up"],
)
def test_each_request_that_a_user_would_have_lost_is_counted_once(bad, failure, keep_alive):
    asked = []

    def some(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/posts":
            asked.append(request.command)
            bad(request)
        else:
            well(request)

    with server(some) as base, Load(base, base, 1000, workers=4, keep_alive=keep_alive) as load:
        load.wait_for(60)
    result = load.result
    # as many as the server was asked for: nothing is asked twice
    assert result.failed == len(asked) == result.of("posts", "write").total > 0
    assert all(failure in answer.failure for answer in result.failures)
    assert result.written == ()
    assert f"{result.failed} failed" in result.lines()[0]


def test_a_server_that_never_answers_is_a_failure_after_the_timeout():
    released = threading.Event()

    def some(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/health":
            released.wait(10)
        well(request)

    with server(some) as base, Load(base, base, 1000, workers=4, timeout=0.2, mix={"health": 1}) as load:
        load.wait_for(8)
        released.set()
    assert all("imeout" in answer.failure or "timed out" in answer.failure for answer in load.result.answers[:4])


def test_a_page_that_cannot_show_its_posts_is_a_failure():
    def without_posts(request: http.server.BaseHTTPRequestHandler) -> None:
        send(request, 200, PAGE.replace("<main", '<p data-error="posts"></p><main'))

    with server(without_posts) as base, Load(base, base, 1000, workers=2, mix={"page": 1}) as load:
        load.wait_for(10)
    assert load.result.failed == load.result.total


def test_a_server_that_is_gone_is_counted_request_by_request():
    with server(well) as base:
        load = Load(base, base, 1000, workers=4, mix={"health": 1}).__enter__()
        load.wait_for(20)
    load.wait_for(20)
    load.__exit__()
    assert load.result.failed >= 20
    assert any("ConnectionRefused" in answer.failure for answer in load.result.failures)


def test_a_browser_notices_assets_of_its_page_that_are_gone_or_another():
    chunk = {"/_next/static/a.js": (200, "one")}

    def pages(request: http.server.BaseHTTPRequestHandler) -> None:
        send(request, *chunk.get(request.path, (200, PAGE)))

    with server(pages) as base:
        browser = Browser(base)
        browser.load()
        assert browser.release == "v1"
        assert browser.broken_assets(times=2) == []
        chunk["/_next/static/a.js"] = (200, "two")
        assert browser.broken_assets() == ["/_next/static/a.js: other content"]
        chunk["/_next/static/a.js"] = (404, "")
        assert browser.broken_assets() == ["/_next/static/a.js: status 404"]
