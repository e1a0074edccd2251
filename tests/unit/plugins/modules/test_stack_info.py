# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.connectin.rollback.plugins.module_utils import _ledger, _lock, _state_dir
from ansible_collections.connectin.rollback.plugins.modules import stack_info

COMPOSE = "services:\n  api:\n    image: ${REGISTRY}/api:v1.2.0\n"
ENV = "REGISTRY=r:5000\nSECRET=hunter2\n"


def git(directory, *args):
    subprocess.run(
        ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@example.com", *args],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
    )


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A checkout with two releases and an .env, an empty state directory, no engine and no docker command."""
    project, programs = tmp_path / "srv", tmp_path / "bin"
    (project / "prisma" / "1_init").mkdir(parents=True)
    programs.mkdir()
    (tmp_path / "state").mkdir()
    for name in ("git", "timeout"):
        (programs / name).symlink_to(shutil.which(name))
    (project / "prisma" / "1_init" / "migration.sql").write_text("select 1;\n")
    (project / "docker-compose.yml").write_text(COMPOSE.replace("v1.2.0", "v1.1.0"))
    (project / ".gitignore").write_text(".env\n")
    git(project, "init", "-q", "-b", "main")
    for release in ("v1.1.0", "v1.2.0"):
        (project / "docker-compose.yml").write_text(COMPOSE.replace("v1.2.0", release))
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", release)
        git(project, "tag", release)
        (project / "prisma" / "2_more").mkdir(exist_ok=True)
        (project / "prisma" / "2_more" / "migration.sql").write_text("select 2;\n")
        (project / "package.json").write_text('{"scripts": {"test:smoke": "x"}}')
    (project / ".env").write_text(ENV)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    return tmp_path


@pytest.fixture
def run(host, capsys):
    def call(**options):
        options = {
            "project_dir": str(host / "srv"),
            "state_dir": str(host / "state"),
            "migrations_path": "prisma",
            "services": {"api": {}},
            **options,
        }
        with patch_module_args(options), pytest.raises(SystemExit) as ended:
            stack_info.main()
        output = capsys.readouterr().out
        assert "Traceback" not in output
        assert "hunter2" not in output
        return ended.value.code, json.loads(output)

    return call


@pytest.fixture
def serve():
    servers = []

    def start(status, body, delay=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if delay:
                    delay.wait(30)
                self.send_response(status)
                self.end_headers()
                # The reader may have given up by then.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(body)

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/health"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ledger(host, *lines):
    text = "".join(_ledger.Entry(kind="release", at="2026-01-01T00:00:00Z", **line).as_line() for line in lines)
    (host / "state" / "ledger.jsonl").write_text(text)


def codes(result):
    return [refusal["code"] for refusal in result["refusals"]]


def test_all_that_is_lacking_is_told_at_once(host, run):
    (host / "srv" / "docker-compose.yml").write_text("changed")
    lock = _lock.Lock(True, "other", "alice", "why", "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z")
    (host / "state" / "lock.json").write_text(lock.as_text())
    code, result = run(release="previous")
    assert code == 0
    assert not result["changed"]
    assert sorted(codes(result)) == ["docker_missing", "engine_down", "local_changes", "lock_held", "no_previous"]
    assert all(refusal["message"] and refusal["next"] for refusal in result["refusals"])


def test_a_checkout_is_read_while_the_engine_is_down(host, run):
    _code, result = run(release="v1.1.0")
    found = result["git"]
    assert (found["head_tags"], found["branch"], found["tags"]) == (["v1.2.0"], "main", found["tags"])
    assert sorted(found["tags"]) == ["v1.1.0", "v1.2.0"]
    assert (found["target_local"], found["target_on_remote"]) == (True, None)
    assert (found["target_migrations"], found["head_migrations"]) == (["1_init"], ["1_init", "2_more"])
    assert not found["smoke"]
    assert run(release="v1.2.0")[1]["git"]["smoke"]


def test_every_key_is_there_even_when_there_is_no_project(host, run):
    _code, full = run(release="v1.1.0")
    _code, bare = run(project_dir=str(host / "gone"), state_dir=str(host / "none"))
    assert codes(bare) == ["project_missing", "engine_down"]
    assert full.keys() == bare.keys()
    for part in ("engine", "compose", "git", "ledger", "lock", "env"):
        assert full[part].keys() == bare[part].keys()
    assert full["services"]["api"].keys() == bare["services"]["api"].keys()


def test_a_file_that_we_pinned_is_no_local_change(host, run):
    compose = host / "srv" / "docker-compose.yml"
    compose.write_text(COMPOSE.replace("v1.2.0", "v1.1.0"))
    pin = {"path": str(compose), "sha256": hashlib.sha256(compose.read_bytes()).hexdigest()}
    ledger(host, {"release": "v1.1.0", "pins": [pin]})
    _code, result = run()
    assert (result["git"]["pins"], result["git"]["local_changes"]) == (["docker-compose.yml"], [])
    assert "local_changes" not in codes(result)
    compose.write_text("edited by hand")
    assert run()[1]["git"]["local_changes"] == ["docker-compose.yml"]


def test_a_deleted_file_is_a_local_change(host, run):
    (host / "srv" / "docker-compose.yml").unlink()
    _code, result = run()
    assert result["git"]["local_changes"] == ["docker-compose.yml"]
    assert "compose_missing" in codes(result)


def test_previous_is_the_newest_good_release_of_the_ledger(host, run):
    ledger(host, {"release": "v1.1.0", "verdict": "good"}, {"release": "v1.2.0", "verdict": "bad"})
    _code, result = run(release="previous")
    assert (result["target"], result["ledger"]["current"], result["ledger"]["previous"]) == (
        "v1.1.0",
        "v1.2.0",
        "v1.1.0",
    )
    assert "no_previous" not in codes(result)


def test_previous_is_the_target_of_the_run_that_is_taken_up_again(host, run):
    ledger(host, {"release": "v1.0.0", "verdict": "good"}, {"release": "v1.1.0", "verdict": "good"})
    own = _lock.Lock(True, "r1", "alice", "rollback to v1.1.0: 503s", "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z")
    (host / "state" / "lock.json").write_text(own.as_text())
    assert run(release="previous", run_id="r1")[1]["target"] == "v1.1.0"
    assert run(release="previous", run_id="r2")[1]["target"] == "v1.0.0"


def test_a_freeze_is_told_until_it_is_lifted(host, run):
    entries = [_ledger.Entry(kind="freeze", release="v1.1.0", at="then", who="alice", why="503", run_id="r1")]
    (host / "state" / "ledger.jsonl").write_text(entries[0].as_line())
    frozen = {"release": "v1.1.0", "at": "then", "who": "alice", "why": "503", "run_id": "r1"}
    assert run()[1]["ledger"]["frozen"] == frozen
    thaw = _ledger.next_thaw(entries, "now", "bob", "repaired", "")
    (host / "state" / "ledger.jsonl").write_text(entries[0].as_line() + thaw.as_line())
    assert run()[1]["ledger"]["frozen"] is None


def test_the_ledger_tells_the_migrations_of_a_tag_that_is_not_local(host, run):
    git(host / "srv", "clone", "-q", "--bare", str(host / "srv"), str(host / "origin"))
    git(host / "srv", "remote", "add", "origin", str(host / "origin"))
    git(host / "srv", "tag", "-d", "v1.1.0")
    ledger(host, {"release": "v1.1.0", "migrations": ["1_init"]})
    found = run(release="v1.1.0")[1]["git"]
    assert (found["target_local"], found["target_on_remote"], found["target_migrations"]) == (False, True, ["1_init"])
    assert len(found["target_commit"]) == 40


def test_a_tag_that_nobody_has_is_a_refusal(host, run):
    git(host / "srv", "clone", "-q", "--bare", str(host / "srv"), str(host / "origin"))
    git(host / "srv", "remote", "add", "origin", str(host / "origin"))
    _code, result = run(release="v9")
    assert "tag_unknown" in codes(result)
    assert result["git"]["target_on_remote"] is False


def test_a_tag_that_cannot_be_looked_for_is_not_called_unknown(host, run):
    _code, result = run(release="v9")
    assert "git_unreachable" in codes(result)
    assert "tag_unknown" not in codes(result)
    assert result["git"]["target_on_remote"] is None


def test_a_release_without_its_migrations_directory_is_not_one_without_migrations(host, run):
    _code, result = run(release="v1.1.0", migrations_path="moved/migrations")
    assert "migrations_missing" in codes(result)
    assert result["git"]["target_migrations"] is None
    _code, result = run(release="v1.1.0", migrations_path="")
    assert "migrations_missing" not in codes(result)


def test_reading_leaves_the_checkout_untouched(host, run):
    # A file that was touched makes a plain git status rewrite the index.
    os.utime(host / "srv" / "docker-compose.yml", (1, 1))
    index = host / "srv" / ".git" / "index"
    before = index.read_bytes()
    run(release="v1.1.0")
    assert index.read_bytes() == before


def test_without_git_the_checkout_is_not_asked_for(host, run):
    shutil.rmtree(host / "srv" / ".git")
    assert "git_missing" in codes(run()[1])
    assert "git_missing" not in codes(run(git=False)[1])


def test_a_malformed_release_is_asked_of_nobody(run):
    _code, result = run(release="../v1")
    assert "tag_malformed" in codes(result)
    assert result["target"] == ""


def test_the_own_lock_and_an_expired_one_are_no_refusal(host, run):
    held = _lock.Lock(True, "mine", "alice", "why", "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z")
    (host / "state" / "lock.json").write_text(held.as_text())
    assert "lock_held" in codes(run()[1])
    _code, result = run(run_id="mine")
    assert "lock_held" not in codes(result)
    assert (result["lock"]["held"], result["lock"]["owner"]) == (True, "alice")
    (host / "state" / "lock.json").write_text(held.as_text().replace("2999", "2026"))
    assert "lock_held" not in codes(run()[1])


def test_the_own_run_waits_for_what_a_killed_try_of_it_still_does_here_and_no_other_run_does(host, run):
    held = _lock.Lock(True, "mine", "alice", "why", "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z")
    (host / "state" / "lock.json").write_text(held.as_text())
    begun, over = threading.Event(), threading.Event()

    def at_work():
        with _state_dir.exclusive(str(host / "srv")):
            begun.set()
            over.wait(10)

    worker = threading.Thread(target=at_work)
    worker.start()
    begun.wait(10)
    run(run_id="other")
    assert not over.is_set()
    threading.Timer(1.0, over.set).start()
    run(run_id="mine")
    assert over.is_set(), "it read while that was at work"
    worker.join()


def test_an_unreadable_lock_is_held_whoever_asks(host, run):
    (host / "state" / "lock.json").write_text("{")
    assert "lock_held" in codes(run()[1])


def test_a_state_directory_of_root_is_a_refusal_for_others(host, run):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (host / "state").chmod(0o700)
    for directory in (host, *host.parents[:-2]):
        directory.chmod(0o755)
    os.seteuid(65534)
    try:
        _code, result = run()
    finally:
        os.seteuid(0)
    assert "state_dir_denied" in codes(result)
    assert "git_safe_directory" in codes(result)


def test_what_an_earlier_try_of_the_run_kept_is_read_and_no_other_run(host, run):
    assert run(run_id="r1")[1]["run"] is None
    plan = host / "state" / "runs" / "r1" / "plan.json"
    plan.parent.mkdir(parents=True)
    kept = {"hosts": {"app1": {}}, "database": {"undone": ["m2"]}}
    plan.write_text(json.dumps(kept))
    assert run(run_id="r1")[1]["run"] == {"plan": kept}
    assert run(run_id="r2")[1]["run"] is None
    assert run()[1]["run"] is None


def test_the_env_file_differs_by_name_only(host, run):
    kept = host / "state" / "releases" / "v1.1.0" / "env"
    kept.parent.mkdir(parents=True)
    kept.write_text("REGISTRY=r:5000\nSECRET=older\n")
    found = run(release="v1.1.0")[1]["env"]
    assert found == {"sha256": hashlib.sha256(ENV.encode()).hexdigest(), "differs": ["SECRET"]}


def test_health_is_read_with_its_body_whatever_the_status(run, serve):
    url = serve(503, b'{"status": "error"}')
    _code, result = run(services={"api": {"health_url": url}, "web": {"health_url": serve(200, b"<html>")}})
    assert result["services"]["api"]["health"] == {"status": 503, "body": {"status": "error"}, "error": ""}
    assert result["services"]["web"]["health"] == {"status": 200, "body": None, "error": ""}


def test_services_that_hang_are_waited_for_together(run, serve, monkeypatch):
    monkeypatch.setattr(stack_info, "HEALTH_TIMEOUT", 0.3)
    never = threading.Event()
    urls = [serve(200, b"{}", never) for _ in range(4)]
    started = time.monotonic()
    _code, result = run(services={str(number): {"health_url": url} for number, url in enumerate(urls)})
    never.set()
    assert time.monotonic() - started < 1.1
    assert {service["health"]["error"] for service in result["services"].values()} == {"no answer within 0.3 s"}


def test_a_port_nobody_listens_on_is_an_error_of_its_own(run, serve):
    _code, result = run(services={"api": {"health_url": "http://127.0.0.1:9/health"}})
    assert result["services"]["api"]["health"] == {"status": 0, "body": None, "error": "Connection refused"}


def test_a_host_without_pyyaml_is_told_its_package(run, monkeypatch):
    monkeypatch.setattr(stack_info, "yaml", None)
    refusals = {refusal["code"]: refusal for refusal in run()[1]["refusals"]}
    assert "python3-yaml" in refusals["library_missing"]["next"]


@pytest.mark.parametrize("services", [{"api": "x"}, {"api": {"url": "x"}}, {"api": {"health_url": "127.0.0.1:80"}}])
def test_only_bad_arguments_fail(run, services):
    code, result = run(services=services)
    assert code == 1
    assert "services.api" in result["msg"]


def test_a_kept_build_is_read_where_it_lies_and_asked_for_where_it_is_served(host, run, serve):
    builds = host / "builds"
    for release in ("v1.1.0", "v1.2.0"):
        (builds / release / ".next").mkdir(parents=True)
        (builds / release / ".next" / "BUILD_ID").write_text(f"id-of-{release}\n")
    (builds / "current").symlink_to("v1.2.0")
    services = {"api": {"artifacts_dir": str(builds), "health_url": serve(200, b"{}")}}
    _code, result = run(release="v1.1.0", services=services)
    service = result["services"]["api"]
    assert service["artifact"] == {"current": "v1.2.0", "target_build_id": "id-of-v1.1.0", "target_served": True}
    assert (service["build_id"], service["target_image"]) == ("id-of-v1.2.0", "")
    services["api"]["health_url"] = serve(404, b"")
    _code, result = run(release="v1.1.0", services=services)
    assert result["services"]["api"]["artifact"]["target_served"] is False


def test_a_release_without_a_kept_build_is_a_refusal(host, run):
    _code, result = run(release="v1.1.0", services={"api": {"artifacts_dir": str(host / "builds")}})
    assert "artifact_missing" in codes(result)
    assert result["services"]["api"]["artifact"]["current"] == ""


def test_an_untracked_file_that_the_targets_checkout_would_overwrite_is_a_refusal(host, run):
    project = host / "srv"
    git(project, "rm", "-q", "--cached", "docker-compose.yml")
    git(project, "commit", "-q", "-m", "v1.3.0")
    _code, result = run(release="v1.1.0")
    (refusal,) = (entry for entry in result["refusals"] if entry["code"] == "untracked_files")
    assert "docker-compose.yml" in refusal["message"]
    git(project, "checkout", "-q", "-f", "v1.2.0")
    _code, result = run(release="v1.1.0")
    assert "untracked_files" not in codes(result)
