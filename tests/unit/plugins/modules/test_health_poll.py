from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from module_run import CHECKOUT, run

KEYS = {"changed", "ready", "endpoints", "not_ready", "seconds"}
# Long enough for a busy machine, where the test expects everything to be ready; nothing waits for it to pass.
AMPLE = 60


class Site(ThreadingHTTPServer):
    """A server on 127.0.0.1 that answers each path with what ``pages`` has for it: a list is used up to its last."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, pages=None, context=None):
        self.pages = pages or {}
        self.requests = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path="/health", scheme="http"):
        return f"{scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def page(self, path):
        pages = self.pages.get(path, (404, "nothing here"))
        if not isinstance(pages, list):
            return pages
        return pages.pop(0) if len(pages) > 1 else pages[0]

    def handle_error(self, request, client_address):
        """Clients that hang up are a part of these tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        status, body, *headers = self.server.page(self.path)
        content = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments):
        """Nothing to standard error."""


@pytest.fixture
def site():
    """Make servers that are gone after the test."""
    with contextlib.ExitStack() as stack:

        def make(pages=None, context=None):
            server = Site(pages, context)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return server

        yield make


@pytest.fixture
def raw():
    """Make a server that handles each connection with a function of the socket."""
    with contextlib.ExitStack() as stack:

        def make(handle):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stopped = threading.Event()

            def serve():
                with contextlib.suppress(OSError):
                    while True:
                        connection = listener.accept()[0]
                        threading.Thread(target=handle, args=(connection, stopped), daemon=True).start()

            threading.Thread(target=serve, daemon=True).start()
            stack.callback(stopped.set)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/health"

        yield make


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


@pytest.fixture
def secure(site, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return site({"/health": (200, "ok")}, context)


def poll(*endpoints, check=False, **options):
    return run(
        "health_poll", check=check, endpoints=list(endpoints), **{"interval": 0.02, "deadline": AMPLE, **options}
    )


def poll_once(url, timeout=AMPLE, **endpoint):
    """Poll an endpoint that will not be ready; the reason."""
    # On a busy machine half a second may be too short for any answer.
    for deadline in (0.5, 5):
        result = poll({"name": "api", "host": "app1", "url": url, **endpoint}, deadline=deadline, timeout=timeout)
        assert result["failed"]
        assert result.keys() == KEYS | {"failed", "msg"}
        (told,) = result["endpoints"]
        assert not told["ready"]
        if told["attempts"]:
            break
    return told["failures"][-1]


@pytest.mark.parametrize("check", [True, False])
def test_an_endpoint_that_is_healthy_is_ready_in_check_mode_too(site, check):
    server = site({"/health": (200, '{"status": "ok"}')})
    result = poll({"name": "api", "host": "app1", "url": server.url(), "body": "status == 'ok'"}, check=check)
    assert result.keys() == KEYS
    assert (result["changed"], result["ready"], result["not_ready"]) == (False, True, [])
    (endpoint,) = result["endpoints"]
    elapsed, seconds = endpoint.pop("elapsed_ms"), endpoint.pop("seconds")
    assert endpoint == {
        "name": "api",
        "host": "app1",
        "url": server.url(),
        "ready": True,
        "status": 200,
        "body": {"status": "ok"},
        "attempts": 1,
        "failures": [],
    }
    assert 0 <= elapsed <= seconds * 1000 + 1


def test_an_endpoint_that_recovers_is_ready_and_keeps_its_failures(site):
    server = site({"/health": [(503, "down"), (503, "down"), (200, "{}"), (200, '{"status": "ok"}')]})
    (endpoint,) = poll({"name": "api", "url": server.url(), "body": "status == 'ok'"})["endpoints"]
    assert (endpoint["ready"], endpoint["attempts"], len(server.requests)) == (True, 4, 4)
    assert endpoint["failures"] == ["answered 503, expected 200", "the body does not hold \"status == 'ok'\""]


def test_it_has_to_hold_so_many_times_in_a_row(site):
    server = site({"/health": [(200, "ok"), (200, "ok"), (503, "down"), (200, "ok")]})
    (endpoint,) = poll({"name": "api", "url": server.url()}, consecutive=3)["endpoints"]
    assert (endpoint["ready"], endpoint["attempts"], len(server.requests)) == (True, 6, 6)


def test_one_that_is_not_ready_fails_the_task_and_is_named_and_the_others_are_told(site):
    server = site({"/health": (503, '{"database": "down"}'), "/": (200, "ok")})
    result = poll(
        {"name": "web", "host": "app1", "url": server.url("/")},
        {"name": "api", "host": "app2", "url": server.url()},
        deadline=1,
    )
    assert result["failed"]
    assert "1 of 2 endpoints were not ready within 1 s: api on app2" in result["msg"]
    assert "answered 503, expected 200" in result["msg"]
    assert result["ready"] is False
    assert [endpoint["ready"] for endpoint in result["endpoints"]] == [True, False]
    assert result["endpoints"][1]["body"] == {"database": "down"}
    assert result["endpoints"][1]["attempts"] > 1


def test_a_server_that_is_not_there_refuses(site):
    server = site()
    url = server.url()
    server.shutdown()
    server.server_close()
    assert poll_once(url) == "connection refused"


def test_a_server_that_says_nothing_times_out(raw):
    assert poll_once(raw(lambda _connection, stopped: stopped.wait()), timeout=0.2) == "no answer within 0.2 s"


def test_a_body_that_drips_for_ever_times_out(raw):
    def drip(connection, stopped):
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not stopped.wait(0.05):
                connection.sendall(b".")

    assert poll_once(raw(drip), timeout=0.2) == "no answer within 0.2 s"


def test_headers_that_drip_for_ever_do_not_hold_up_the_deadline(raw):
    def drip(connection, stopped):
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stopped.wait(0.05):
                connection.sendall(b".")

    started = time.monotonic()
    result = poll({"name": "api", "url": raw(drip)}, deadline=0.5, timeout=0.2)
    assert result["failed"]
    assert "no answer within the deadline of 0.5 s" in result["msg"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "the connection was closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\npart", "the answer broke off"),
    ],
)
def test_an_answer_that_is_none_is_told_as_what_it_is(raw, sent, reason):
    def answer(connection, _stopped):
        connection.recv(4096)
        connection.sendall(sent)
        connection.close()

    assert poll_once(raw(answer)) == reason


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.0 200 OK\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n",
    ],
)
def test_a_body_of_any_framing_is_read_whole(raw, sent):
    def answer(connection, _stopped):
        connection.recv(4096)
        connection.sendall(sent)
        connection.close()

    (endpoint,) = poll({"name": "api", "url": raw(answer), "contains": "fine"})["endpoints"]
    assert (endpoint["ready"], endpoint["body"]) == (True, "fine")


def test_a_body_without_end_is_given_up(raw):
    def flood(connection, stopped):
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not stopped.is_set():
                connection.sendall(b"x" * 1_000_000)

    result = poll({"name": "api", "url": raw(flood)}, deadline=6, timeout=6)
    assert result["endpoints"][0]["failures"] == ["the body is longer than 8 MiB"]


def test_a_name_that_nobody_knows_is_told():
    # A label of this length is refused by every resolver without asking anyone.
    assert "label" in poll_once(f"http://{'x' * 64}.example/")


def test_a_redirect_is_reported_and_not_followed(site):
    server = site({"/health": (302, "", ("Location", "/login?next=x")), "/login": (200, "ok")})
    assert poll_once(server.url()) == "answered 302 to /login, expected 200 (redirects are not followed)"
    assert {path for path, _headers in server.requests} == {"/health"}


def test_a_body_that_is_no_json_is_told(site):
    server = site({"/health": (200, "<html>")})
    assert poll_once(server.url(), body="status") == "the body is no JSON"


PAGE = '<link href="/_next/static/a.css"><script src="/_next/static/b.js"></script><a href="/missing">x</a>'


def test_a_page_and_its_assets_are_asked_over_one_connection(site):
    assets = {"/_next/static/a.css": (200, "a"), "/_next/static/b.js": (200, "b")}
    server = site({"/": (200, PAGE), **assets})
    assert poll({"name": "web", "url": server.url("/"), "assets_prefix": "/_next/static/"})["ready"]
    assert [path for path, _headers in server.requests] == ["/", *assets]
    assert server.connections == 1


def test_a_page_that_misses_an_asset_is_not_ready(site):
    server = site({"/": (200, PAGE), "/_next/static/a.css": (200, "a")})
    reason = poll_once(server.url("/"), assets_prefix="/_next/static/")
    assert reason == "1 of 2 assets failed: /_next/static/b.js answered 404"


def test_a_certificate_that_nobody_trusts_is_told(secure):
    reason = poll_once(secure.url(scheme="https"))
    assert reason.startswith("the TLS certificate is not accepted: self")


def test_a_certificate_can_be_trusted_or_left_unchecked(secure, certificate):
    endpoint = {"name": "api", "url": secure.url(scheme="https")}
    assert poll(endpoint, ca_path=certificate)["ready"]
    assert poll(endpoint, validate_certs=False)["ready"]


def test_tls_that_meets_plain_http_is_told(site):
    server = site({"/health": (200, "ok")})
    assert poll_once(server.url(scheme="https")) in (
        "TLS failed: wrong version number",
        "TLS failed: http request",
        "TLS failed: record layer failure",
    )


def test_headers_are_sent_with_the_page_and_its_assets_and_never_shown(site):
    server = site({"/": (200, PAGE), "/_next/static/a.css": (200, "a"), "/_next/static/b.js": (200, "b")})
    headers = {"Host": "www.example.com", "Authorization": "Bearer tok-123456", "X-Probe": 1}
    result = poll({"name": "web", "url": server.url("/"), "assets_prefix": "/_next/", "headers": headers})
    assert result["ready"]
    for _path, sent in server.requests:
        assert (sent["Host"], sent["Authorization"], sent["X-Probe"]) == (
            "www.example.com",
            "Bearer tok-123456",
            "1",
        )
    assert len(server.requests) == 3
    assert "tok-123456" not in json.dumps(result)
    # A short value is no secret: blanking it would blank each 1 in the numbers of the results.
    assert result["endpoints"][0]["attempts"] == 1


def test_a_secret_that_the_answer_repeats_is_not_shown(site):
    server = site({"/": (500, "you sent Bearer tok-123456")})
    result = poll(
        {"name": "web", "url": server.url("/"), "headers": {"Authorization": "Bearer tok-123456"}}, deadline=0.2
    )
    assert result["failed"]
    assert "tok-123456" not in json.dumps(result)


@pytest.mark.parametrize(
    ("endpoint", "options", "message"),
    [
        ({"body": "status =="}, {}, "its body 'status ==' is no JMESPath expression"),
        ({"body": "a && nosuch(b)"}, {}, "there is no function nosuch()"),
        ({"url": "app1/health"}, {}, "'app1/health' is no http or https address"),
        ({}, {"consecutive": 0}, "consecutive is 0, and has to be at least 1"),
        ({}, {"threads": 0}, "threads is 0"),
        ({}, {"timeout": 0}, "timeout is 0"),
        ({}, {"deadline": -1}, "deadline is -1"),
        ({}, {"interval": -1}, "interval is -1"),
        ({"url": "https://127.0.0.1/"}, {"ca_path": "/nowhere/ca.pem"}, "/nowhere/ca.pem cannot be loaded"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_polled(site, endpoint, options, message):
    server = site({"/health": (200, "ok")})
    good = {"name": "good", "url": server.url()}
    result = poll(good, {"name": "api", "url": server.url(), **endpoint}, **options)
    assert result["failed"]
    assert message in result["msg"]
    assert server.requests == []


def test_nothing_to_poll_is_refused():
    assert "endpoints is empty" in poll()["msg"]


def test_jmespath_is_needed_only_for_a_body(site, tmp_path):
    (tmp_path / "jmespath.py").write_text("raise ImportError('not installed')")
    server = site({"/health": (200, '{"a": 1}')})

    def without_jmespath(**endpoint):
        # The directory of the stand-in comes first on the path of the module, and the collection after it.
        return run(
            "health_poll",
            environment={"PYTHONPATH": f"{tmp_path}:{CHECKOUT / 'collections'}"},
            endpoints=[{"name": "api", "url": server.url(), **endpoint}],
        )

    assert without_jmespath()["ready"]
    refused = without_jmespath(body="a")
    assert refused["failed"]
    assert "python3-jmespath" in refused["msg"]


def test_two_hundred_endpoints_that_stumble_twice_take_seconds(site):
    down = [(503, "down"), (503, "down"), (200, '{"status": "ok"}')]
    server = site({f"/{number}": list(down) for number in range(200)})
    endpoints = [
        {"name": "api", "host": f"app{number}", "url": server.url(f"/{number}"), "body": "status == 'ok'"}
        for number in range(200)
    ]
    started = time.monotonic()
    result = poll(*endpoints, interval=0.5)
    assert time.monotonic() - started < 10
    assert result["ready"]
    assert [endpoint["host"] for endpoint in result["endpoints"]] == [f"app{number}" for number in range(200)]
    assert {endpoint["attempts"] for endpoint in result["endpoints"]} == {3}
    assert len(server.requests) == 600
