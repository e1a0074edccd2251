# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import io
import json
import os
import socketserver
import tarfile
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _docker_engine as docker


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers on a unix socket with what a test gives for a path; everything that was asked is kept."""

    daemon_threads = True

    def __init__(self, path, answers):
        self.answers = answers
        self.asked = []
        self.connections = 0
        super().__init__(str(path), Handler)

    def get_request(self):
        self.connections += 1
        request, _address = super().get_request()
        return request, ("local", 0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    do_DELETE = do_POST

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, body = self.server.answers.get(self.path.partition("?")[0], (404, {"message": "no such object"}))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args):
        pass


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(**answers):
        server = Server(tmp_path / "docker.sock", answers.pop("paths", answers))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server, docker.Engine(str(tmp_path / "docker.sock"), 5)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def archive(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def a_file(name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return archive((member, content))


def test_all_reads_share_one_connection(serve):
    server, engine = serve(paths={"/version": (200, {"Version": "26.1.5"}), "/info": (200, {"DockerRootDir": "/d"})})
    assert (engine.version(), engine.root_dir(), engine.image("gone:v1")) == ("26.1.5", "/d", None)
    assert server.connections == 1


def test_containers_are_found_by_label_whatever_their_state_and_one_that_left_is_left_out(serve):
    server, engine = serve(
        paths={
            "/containers/json": (200, [{"Id": "a"}, {"Id": "b"}]),
            "/containers/a/json": (200, {"Id": "a", "Name": "/x"}),
        }
    )
    assert engine.containers("k=v") == [{"Id": "a", "Name": "/x"}]
    assert server.asked[0][0] == "/containers/json?all=1&filters=%7B%22label%22%3A%20%5B%22k%3Dv%22%5D%7D"


def test_a_socket_that_is_missing_is_an_engine_that_is_down(tmp_path):
    with pytest.raises(docker.EngineError, match="docker.sock: no such file") as caught:
        docker.Engine(str(tmp_path / "docker.sock")).version()
    assert caught.value.kind == "down"


def test_a_socket_nobody_listens_on_is_an_engine_that_is_down(tmp_path, serve):
    server, engine = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(docker.EngineError, match="connection refused") as caught:
        engine.version()
    assert caught.value.kind == "down"


def test_a_socket_that_may_not_be_used_is_told_apart(serve, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    _server, engine = serve()
    for directory in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(directory, 0o755)
    os.chmod(tmp_path / "docker.sock", 0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(docker.EngineError, match="permission denied") as caught:
            engine.version()
    finally:
        os.seteuid(0)
    assert caught.value.kind == "permission"


def test_an_error_of_the_engine_keeps_its_status_and_message(serve):
    _server, engine = serve(paths={"/version": (500, {"message": "out of sorts"}), "/info": (502, b"<html>")})
    with pytest.raises(docker.EngineError, match="out of sorts") as caught:
        engine.version()
    assert (caught.value.kind, caught.value.status) == ("http", 500)
    with pytest.raises(docker.EngineError, match="<html>"):
        engine.root_dir()


def test_an_answer_that_is_no_http_is_an_engine_that_is_down(tmp_path):
    class Garbage(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1024)
            self.request.sendall(b"SSH-2.0-x\r\n\r\n")

    with socketserver.UnixStreamServer(str(tmp_path / "s"), Garbage) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(docker.EngineError) as caught:
            docker.Engine(str(tmp_path / "s"), 5).version()
    assert caught.value.kind == "down"


def test_the_registry_is_asked_with_credentials_only_where_there_are_some(serve):
    answer = {"Descriptor": {"digest": "sha256:1"}}
    server, engine = serve(paths={"/distribution/r:5000/a/api:v1/json": (200, answer)})
    assert engine.distribution_digest("r:5000/a/api:v1", "secret") == "sha256:1"
    assert engine.distribution_digest("r:5000/a/api:v1", "") == "sha256:1"
    assert [headers.get("X-Registry-Auth") for _path, headers in server.asked] == ["secret", None]


def test_a_file_is_read_out_of_a_container(serve):
    server, engine = serve(paths={"/containers/a/archive": (200, a_file("BUILD_ID", b"abc\n"))})
    assert engine.read_file("a", "/app/.next/BUILD ID") == "abc\n"
    assert server.asked[0][0] == "/containers/a/archive?path=%2Fapp%2F.next%2FBUILD+ID"


def test_a_symbolic_link_in_a_container_is_followed_once(serve):
    link = tarfile.TarInfo("BUILD_ID")
    link.type, link.linkname = tarfile.SYMTYPE, "../build/ID"
    server, engine = serve(paths={"/containers/a/archive": (200, archive((link, b"")))})
    assert engine.read_file("a", "/app/.next/BUILD_ID") is None
    assert [path for path, _headers in server.asked] == [
        "/containers/a/archive?path=%2Fapp%2F.next%2FBUILD_ID",
        "/containers/a/archive?path=%2Fapp%2Fbuild%2FID",
    ]


@pytest.mark.parametrize("body", [b"", b"no tar", b"\0" * 512])
def test_what_is_no_archive_is_no_file(serve, body):
    _server, engine = serve(paths={"/containers/a/archive": (200, body)})
    assert engine.read_file("a", "/x") is None


def test_a_file_that_is_too_large_is_cut_and_the_next_read_still_works(serve):
    _server, engine = serve(
        paths={
            "/containers/a/archive": (200, a_file("x", b"y" * docker.FILE_LIMIT * 4)),
            "/version": (200, {"Version": "1"}),
        }
    )
    assert engine.read_file("a", "/x") == "y" * docker.FILE_LIMIT
    assert engine.version() == "1"


def frame(kind, content):
    return bytes((kind, 0, 0, 0)) + len(content).to_bytes(4, "big") + content


def test_a_log_is_put_together_of_what_went_to_either_stream(serve):
    stream = frame(1, b"a\n") + frame(2, b"\xff oops\n") + frame(1, b"") + frame(1, b"b\n")
    server, engine = serve(paths={"/containers/a/logs": (200, stream), "/containers/t/logs": (200, b"as it is\r\n")})
    assert engine.logs("a", 7, tty=False) == "a\n\ufffd oops\nb\n"
    assert engine.logs("t", 7, tty=True) == "as it is\r\n"
    assert server.asked[0][0] == "/containers/a/logs?stdout=1&stderr=1&timestamps=1&tail=7"


def test_a_log_that_breaks_off_within_a_frame_is_kept_as_far_as_it_goes():
    assert docker.demultiplexed(frame(1, b"a\n") + frame(1, b"broken")[:-3]) == b"a\nbro"
    assert docker.demultiplexed(frame(1, b"a\n") + b"\1\0\0") == b"a\n"


def test_a_log_that_cannot_be_read_says_why(serve):
    _server, engine = serve(paths={"/containers/a/logs": (501, {"message": "the driver does not support reading"})})
    with pytest.raises(docker.EngineError, match="does not support reading") as caught:
        engine.logs("a", 7, tty=False)
    assert (caught.value.kind, caught.value.status) == ("http", 501)


def test_a_container_is_created_by_name_and_removed_with_its_volumes(serve):
    server, engine = serve(paths={"/containers/create": (201, {"Id": "c1"}), "/containers/c1": (204, b"")})
    assert engine.create({"Image": "a:v1"}, "hold a") == "c1"
    engine.remove("c1")
    engine.remove("gone")
    assert [path for path, _headers in server.asked] == [
        "/containers/create?name=hold+a",
        "/containers/c1?force=1&v=1",
        "/containers/gone?force=1&v=1",
    ]


@pytest.mark.parametrize(
    ("status", "said"), [(404, "no image a:v1 on this host"), (409, "a:v1 cannot be created: the name is in use")]
)
def test_a_container_that_cannot_be_created_says_why(serve, status, said):
    _server, engine = serve(paths={"/containers/create": (status, {"message": "the name is in use"})})
    with pytest.raises(docker.EngineError, match=said):
        engine.create({"Image": "a:v1"})


def test_a_container_that_cannot_be_removed_says_why(serve):
    _server, engine = serve(paths={"/containers/a": (500, {"message": "device busy"})})
    with pytest.raises(docker.EngineError, match="device busy"):
        engine.remove("a")


def test_docker_host_names_the_socket():
    assert docker.socket_path("") == "/var/run/docker.sock"
    assert docker.socket_path("unix:///run/user/1/docker.sock") == "/run/user/1/docker.sock"
    with pytest.raises(docker.EngineError, match="tcp://1.2.3.4:2375, not a unix socket") as caught:
        docker.socket_path("tcp://1.2.3.4:2375")
    assert caught.value.kind == "remote"
