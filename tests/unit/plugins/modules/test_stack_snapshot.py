# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socketserver
import stat
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.connectin.rollback.plugins.module_utils import _ledger
from ansible_collections.connectin.rollback.plugins.modules import stack_snapshot

COMPOSE = "services:\n  api:\n    image: r/api:{release}\n"
ENV = "SECRET=hunter2\r\nWEB_TAG=v2"
KEYS = {"changed", "path", "head", "branch", "services", "files", "problems", "diff"}
# What Ansible adds about a path.
FILE_FACTS = {"uid", "gid", "owner", "group", "mode", "state", "size", "secontext", "invocation"}


def git(directory, *args):
    done = subprocess.run(
        ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@example.com", *args],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
    )
    return done.stdout.strip()


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A checkout of main at v2 with an .env that is in no checkout, no engine and no docker command."""
    project, programs = tmp_path / "srv", tmp_path / "bin"
    project.mkdir()
    programs.mkdir()
    (programs / "git").symlink_to(shutil.which("git"))
    (project / ".gitignore").write_text(".env\n")
    git(project, "init", "-q", "-b", "main")
    for release in ("v1", "v2"):
        (project / "docker-compose.yml").write_text(COMPOSE.format(release=release))
        (project / "README").write_text(release)
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", release)
        git(project, "tag", release)
    (project / ".env").write_bytes(ENV.encode())
    (project / ".env").chmod(0o640)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    return tmp_path


@pytest.fixture
def run(host, capsys):
    def call(state="present", check=False, **options):
        options = {
            "state": state,
            "project_dir": str(host / "srv"),
            "state_dir": str(host / "state"),
            "run_id": "run-a",
            "_ansible_check_mode": check,
            **options,
        }
        with patch_module_args(options), pytest.raises(SystemExit) as ended:
            stack_snapshot.main()
        output = capsys.readouterr().out
        assert "Traceback" not in output
        assert "hunter2" not in output
        result = json.loads(output)
        if ended.value.code == 0:
            assert result.keys() - FILE_FACTS == KEYS
        return ended.value.code, result

    return call


def switch(host, pinned="r/api:v1-pinned"):
    """What a rollback to v1 does: checkout, pin (entered in the ledger) and .env."""
    project = host / "srv"
    git(project, "checkout", "-q", "--detach", "v1")
    pin(host, COMPOSE.format(release="v1").replace("r/api:v1", pinned))
    (project / ".env").write_bytes(ENV.replace("v2", "v1").encode())


def pin(host, text):
    compose = host / "srv" / "docker-compose.yml"
    entry = _ledger.Entry(
        "mark", "v1", pins=[{"path": str(compose), "sha256": hashlib.sha256(text.encode()).hexdigest()}]
    )
    with open(host / "state" / "ledger.jsonl", "a") as stream:
        stream.write(entry.as_line())
    compose.write_text(text)


def whole(directory):
    """Every file below a directory with its content, mode, owner and group; git's own are left out."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), *facts(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(directory).parts
    }


def facts(path):
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def where(host):
    return git(host / "srv", "rev-parse", "HEAD"), git(host / "srv", "branch", "--show-current")


def test_check_and_real_then_what_was_before_stays(host, run):
    code, predicted = run(check=True)
    assert (code, (host / "state").exists()) == (0, False)
    code, done = run()
    before = host / "state" / "runs" / "run-a" / "before"
    manifest = json.loads((before / "before.json").read_text())
    assert (manifest["head"], manifest["branch"]) == where(host)
    by_path = {entry["path"]: entry for entry in manifest["files"]}
    assert sorted(by_path) == [str(host / "srv" / ".env"), str(host / "srv" / "docker-compose.yml")]
    for path, entry in by_path.items():
        with open(path, "rb") as stream:
            assert (before / entry["copy"]).read_bytes() == stream.read()
    for result in (predicted, done):
        assert (result["changed"], result["head"], result["branch"]) == (True, manifest["head"], "main")
        assert result["files"] == list(by_path)
        assert result["path"] == str(host / "state" / "runs" / "run-a")
    kept = whole(host / "state")
    switch(host)
    (host / "state" / "ledger.jsonl").unlink()
    for check in (True, False):
        code, again = run(check=check)
        assert (code, again["changed"], again["files"], again["head"]) == (0, False, [], manifest["head"])
    assert whole(host / "state") == kept


def test_all_that_is_kept_is_private(host, run, serve):
    run(health_urls={"api": serve(200, b"ok")})
    for path in (host / "state", *(host / "state").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_run_that_was_killed_before_the_manifest_has_kept_nothing(host, run, monkeypatch):
    real = stack_snapshot.Snapshot.write

    def killed(self, path, content):
        if path.endswith("before.json"):
            raise SystemExit(137)
        real(self, path, content)

    monkeypatch.setattr(stack_snapshot.Snapshot, "write", killed)
    options = {"project_dir": str(host / "srv"), "state_dir": str(host / "state"), "run_id": "run-a"}
    with patch_module_args(options), pytest.raises(SystemExit):
        stack_snapshot.main()
    monkeypatch.undo()
    assert (host / "state" / "runs" / "run-a" / "before" / "1-env").exists()
    assert "Nothing was kept" in run("restored")[1]["msg"]
    (host / "srv" / ".env").write_text("NEW=1\n")
    code, result = run()
    assert (code, result["changed"]) == (0, True)
    assert (host / "state" / "runs" / "run-a" / "before" / "1-env").read_text() == "NEW=1\n"


def test_checkout_pins_and_env_come_back_with_mode_and_owner(host, run):
    if os.geteuid() == 0:
        os.chown(host / "srv" / ".env", 12345, 12346)
        os.chown(host / "srv" / "docker-compose.yml", 12345, 12346)
    before, head = whole(host / "srv"), where(host)
    run()
    switch(host)
    (host / "srv" / ".env").chmod(0o600)
    switched = whole(host / "srv"), where(host)
    _code, predicted = run("restored", check=True)
    assert (whole(host / "srv"), where(host)) == switched
    code, done = run("restored")
    assert (code, whole(host / "srv"), where(host)) == (0, before, head)
    for result in (predicted, done):
        assert (result["changed"], result["head"], result["branch"]) == (True, *head)
        assert result["files"] == [str(host / "srv" / name) for name in (".env", "docker-compose.yml")]
        assert result["diff"]["before"] == f"{switched[1][0]}\n"
        assert result["diff"]["after"].splitlines() == [head[0], *result["files"]]
    for check in (True, False):
        _code, again = run("restored", check=check)
        assert (again["changed"], again["files"]) == (False, [])
    assert (whole(host / "srv"), where(host)) == (before, head)


def test_a_pin_that_was_there_before_comes_back_as_a_pin(host, run):
    (host / "state").mkdir()
    pin(host, COMPOSE.format(release="v2-pinned"))
    before, head = whole(host / "srv"), where(host)
    run()
    git(host / "srv", "checkout", "-q", "HEAD", "--", ".")
    switch(host)
    assert run("restored")[0] == 0
    assert (whole(host / "srv"), where(host)) == (before, head)


def test_without_a_move_of_the_checkout_only_the_files_come_back(host, run):
    before, head = whole(host / "srv"), where(host)
    run()
    pin(host, COMPOSE.format(release="v1"))
    _code, result = run("restored")
    assert (result["changed"], result["files"]) == (True, [str(host / "srv" / "docker-compose.yml")])
    assert (whole(host / "srv"), where(host)) == (before, head)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_somebody_else_changed_is_named_and_nothing_is_touched(host, run, moved, check):
    run()
    if moved:
        switch(host)
    (host / "srv" / "README").write_text("mine")
    now = whole(host / "srv"), where(host)
    code, result = run("restored", check=check)
    assert code == 1
    assert "README in" in result["msg"]
    assert "docker-compose.yml" not in result["msg"]
    assert (whole(host / "srv"), where(host)) == now


def test_a_compose_file_edited_by_hand_is_not_overwritten(host, run):
    run()
    switch(host)
    (host / "srv" / "docker-compose.yml").write_text("edited by hand")
    code, result = run("restored")
    assert code == 1
    assert "docker-compose.yml in" in result["msg"]
    assert (host / "srv" / "docker-compose.yml").read_text() == "edited by hand"


def test_an_untracked_file_in_the_way_is_named_before_anything_changes(host, run):
    run()
    git(host / "srv", "checkout", "-q", "--detach", "v1")
    git(host / "srv", "rm", "-q", "--cached", "README")
    git(host / "srv", "commit", "-q", "-m", "without")
    now = whole(host / "srv"), where(host)
    code, result = run("restored")
    assert code == 1
    assert "README in" in result["msg"]
    assert "overwritten" in result["msg"]
    assert (whole(host / "srv"), where(host)) == now


def test_where_git_fails_midway_on_the_way_back_no_mixture_is_left(host, run):
    run()
    switch(host)
    srv = host / "srv"
    (srv / ".git" / "info" / "attributes").write_text("README filter=disk\n")
    for way, script in (("clean", ":"), ("smudge", "[ $x != v2 ] || exit 1")):
        git(srv, "config", f"filter.disk.{way}", f"read x; {script}; printf %s $x")
    git(srv, "config", "filter.disk.required", "true")
    head = where(host)
    code, result = run("restored")
    assert code == 1 and "All files are those of the commit that was checked out before" in result["msg"], result
    assert (where(host), git(srv, "status", "--porcelain", "--untracked-files=no")) == (head, "")
    git(srv, "config", "filter.disk.smudge", "read x; printf %s $x")
    assert run("restored")[0] == 0 and (srv / "README").read_text() == "v2"


def test_a_branch_that_went_on_is_left_alone_and_the_commit_is_checked_out(host, run):
    run()
    head, _branch = where(host)
    (host / "srv" / "README").write_text("v3")
    git(host / "srv", "commit", "-q", "-a", "-m", "v3")
    assert run("restored")[0] == 0
    assert where(host) == (head, "")
    assert git(host / "srv", "rev-parse", "main") != head


def test_a_commit_that_is_gone_is_told_before_anything_changes(host, run):
    run()
    switch(host)
    manifest = host / "state" / "runs" / "run-a" / "before" / "before.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "head": "0" * 40}))
    now = whole(host / "srv"), where(host)
    code, result = run("restored")
    assert code == 1
    assert "does not have the commit 0000" in result["msg"]
    assert (whole(host / "srv"), where(host)) == now


def test_a_file_that_was_not_there_is_not_there_again(host, run):
    (host / "srv" / ".env").unlink()
    run()
    (host / "srv" / ".env").write_text("WEB_TAG=v1\n")
    _code, result = run("restored")
    assert (result["files"], (host / "srv" / ".env").exists()) == ([str(host / "srv" / ".env")], False)
    assert not run("restored")[1]["changed"]


def test_a_symbolic_link_stays_one(host, run):
    (host / "shared").mkdir()
    (host / "srv" / ".env").rename(host / "shared" / "env")
    (host / "srv" / ".env").symlink_to("../shared/env")
    run()
    (host / "shared" / "env").write_text("WEB_TAG=v1\n")
    run("restored")
    assert (host / "srv" / ".env").is_symlink()
    assert (host / "shared" / "env").read_bytes() == ENV.encode()


def test_a_run_that_kept_nothing_is_refused(host, run):
    now = whole(host / "srv"), where(host)
    code, result = run("restored")
    assert (code, result.get("changed", False)) == (1, False)
    assert "Nothing was kept of this host before run run-a" in result["msg"]
    assert (whole(host / "srv"), where(host), (host / "state").exists()) == (*now, False)


@pytest.mark.parametrize("content", [None, b"other"])
def test_a_copy_that_is_damaged_is_told_before_anything_changes(host, run, content):
    run()
    switch(host)
    copy = host / "state" / "runs" / "run-a" / "before" / "1-env"
    copy.unlink() if content is None else copy.write_bytes(content)
    now = whole(host / "srv"), where(host)
    code, result = run("restored")
    assert code == 1
    assert "/srv/.env cannot be put back. Nothing was changed" in result["msg"]
    assert (whole(host / "srv"), where(host)) == now


def test_a_project_that_is_no_checkout_keeps_its_files_only(host, run):
    shutil.rmtree(host / "srv" / ".git")
    _code, result = run()
    assert (result["head"], len(result["files"])) == ("", 2)
    assert "is no git checkout" in str(result["problems"])
    before = whole(host / "srv")
    (host / "srv" / ".env").write_text("x")
    assert run("restored")[1]["changed"]
    assert whole(host / "srv") == before


def test_a_checkout_that_git_refuses_to_read_fails_with_the_next_command(host, run):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(host / "srv", 12345, 12346)
    code, result = run()
    assert code == 1
    assert "safe.directory" in result["msg"]
    assert not (host / "state" / "runs" / "run-a" / "before" / "before.json").exists()


def test_the_files_that_compose_file_names_are_kept(host, run):
    (host / "srv" / "prod.yml").write_text("services: {}\n")
    (host / "srv" / ".env").write_text("COMPOSE_FILE=docker-compose.yml:prod.yml\n")
    assert str(host / "srv" / "prod.yml") in run()[1]["files"]
    assert run(run_id="run-b", compose_files=["prod.yml"])[1]["files"][1:] == [str(host / "srv" / "prod.yml")]


@pytest.mark.parametrize(
    ("options", "said"), [({"run_id": "../x"}, "'../x' cannot name a run"), ({"project_dir": "/gone"}, "/gone")]
)
def test_what_makes_no_sense_fails_and_keeps_nothing(host, run, options, said):
    code, result = run(**options)
    assert code == 1
    assert said in result["msg"]
    assert not list((host / "state").rglob("before.json")) if (host / "state").exists() else True


@pytest.fixture
def serve():
    servers = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/health"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_failing_health_answers_are_kept_with_their_bodies(host, run, serve):
    urls = {"api": serve(503, b'{"status":"error"}'), "web": serve(200, b"x" * 70_000), "db": "http://127.0.0.1:9/"}
    _code, result = run(health_urls=urls)
    answers = json.loads((host / "state" / "runs" / "run-a" / "evidence" / "health.json").read_text())
    assert answers["api"] == {"status": 503, "body": '{"status":"error"}', "error": ""}
    assert (answers["web"]["status"], len(answers["web"]["body"])) == (200, 65_536)
    assert answers["db"] == {"status": 0, "body": "", "error": "connection refused"}
    assert result["changed"]


def container(name, service, **more):
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": service}
    config = {"Labels": labels, "Image": f"r/{service}:v2"}
    return {
        "Id": name,
        "Name": f"/{name}",
        "Image": "sha256:1",
        "Config": config,
        "State": {"Status": "running"},
        **more,
    }


@pytest.fixture
def engine(host):
    """An engine with a container of each of two services; the one of web cannot give its log."""
    frame = b"\1\0\0\0\0\0\0\x09t1 hello\n"
    answers = {
        "/containers/json": (200, [{"Id": "api-1"}, {"Id": "web-1"}]),
        "/containers/api-1/json": (200, container("api-1", "api")),
        "/containers/web-1/json": (200, container("web-1", "web")),
        "/containers/api-1/logs": (200, frame),
        "/containers/web-1/logs": (501, {"message": "the driver does not support reading"}),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            status, body = answers[urlsplit(self.path).path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_args):
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        asked: list[str] = []

        def get_request(self):
            request, _address = super().get_request()
            return request, ("local", 0)

    server = Server(str(host / "docker.sock"), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_logs_are_kept_and_one_that_cannot_be_read_is_only_a_problem(host, run, engine):
    options = {"services": ["api", "web", "worker"], "project_name": "shop", "log_lines": 7}
    code, result = run(**options)
    evidence = host / "state" / "runs" / "run-a" / "evidence"
    assert (code, (evidence / "containers.log").read_text()) == (0, "api-1  | t1 hello\n")
    assert "/containers/api-1/logs?stdout=1&stderr=1&timestamps=1&tail=7" in engine.asked
    assert result["services"] == {
        name: {"image": f"r/{name}:v2", "image_id": "sha256:1", "state": "running"} for name in ("api", "web")
    }
    assert result["problems"] == [
        "the log of web-1 is not kept: the driver does not support reading",
        "worker has no container, so there is no log of it",
    ]
    first = whole(evidence)
    _code, again = run(**options)
    assert (again["changed"], again["services"]) == (True, result["services"])
    assert again["files"] == [str(evidence / "containers-2.log")]
    assert {name: whole(evidence)[name] for name in first} == first


def test_an_engine_that_is_down_is_only_a_problem(host, run):
    code, result = run(services=["api"])
    assert (code, result["services"]) == (0, {})
    assert len(result["problems"]) == 1
    assert "the containers and their logs are not kept" in result["problems"][0]
    assert (host / "state" / "runs" / "run-a" / "before" / "before.json").exists()


def test_evidence_that_cannot_be_written_is_only_a_problem(host, run, engine):
    run_dir = host / "state" / "runs" / "run-a"
    run_dir.mkdir(parents=True)
    (run_dir / "evidence").write_text("in the way")
    code, result = run(services=["api"], project_name="shop")
    assert code == 0
    assert "containers.log is not kept" in str(result["problems"])


def test_the_plan_of_the_newest_try_is_kept_and_what_there_was_before_the_first_one(host, run):
    path = host / "state" / "runs" / "run-a" / "plan.json"
    _code, checked = run(plan='{"hosts": {}}', check=True)
    assert str(path) in checked["files"] and not path.exists()
    assert run(plan='{"hosts": {}}')[1]["changed"]
    assert path.read_text() == '{"hosts": {}}\n' and stat.S_IMODE(path.stat().st_mode) == 0o600
    before = whole(host / "state" / "runs" / "run-a" / "before")
    assert str(path) not in run(plan='{"hosts": {}}')[1]["files"]
    switch(host)
    assert str(path) in run(plan='{"hosts": {"app1": {}}}')[1]["files"]
    assert path.read_text() == '{"hosts": {"app1": {}}}\n'
    assert whole(host / "state" / "runs" / "run-a" / "before") == before
