from __future__ import annotations

import hashlib
import json
import os
import socketserver
import stat
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from module_run import run, start

KEYS = {"changed", "entry", "appended", "entries", "current", "previous", "releases", "torn", "diff"}
KEYS |= {"frozen", "held", "not_held", "let_go"}
SERVICES = {"api": {"image": "r/api:v1.0.0", "digest": "sha256:aa", "image_id": "sha256:01", "build_id": "v1.0.0"}}


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


def ledger(state_dir, **options):
    return run("release_ledger", state_dir=str(state_dir), **options)


def lines(state_dir):
    return (state_dir / "ledger.jsonl").read_text().splitlines()


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_check_and_real_then_check_and_real_again(state_dir):
    options = {"release": "v1.0.0", "services": SERVICES, "migrations": ["m1"], "verdict": "good", "who": "ci"}

    predicted = ledger(state_dir, check=True, **options)
    assert not state_dir.exists()
    done = ledger(state_dir, **options)
    assert len(lines(state_dir)) == 1
    content = (state_dir / "ledger.jsonl").read_bytes()
    checked_again = ledger(state_dir, check=True, **options)
    done_again = ledger(state_dir, **options)

    assert (state_dir / "ledger.jsonl").read_bytes() == content
    for result in (predicted, done):
        assert result["changed"]
        assert (result["current"], result["entries"]) == ("v1.0.0", 1)
        assert result["diff"]["after"] == json.dumps(result["entry"], sort_keys=True) + "\n"
        assert result["releases"][0]["services"] == SERVICES
    assert done["diff"]["after"].encode() == content
    for result in (checked_again, done_again):
        assert not result["changed"]
        assert (result["entry"], result["diff"]["after"], result["entries"]) == (None, "", 1)
    for result in (predicted, done, checked_again, done_again):
        assert result.keys() == KEYS


def test_the_line_is_versioned_and_timed(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES, run_id="run-a", why="deploy")
    (line,) = map(json.loads, lines(state_dir))
    assert (line["v"], line["kind"], line["run_id"], line["why"]) == (1, "release", "run-a", "deploy")
    assert line["at"].endswith("Z")
    assert line["who"]


def test_the_state_directory_and_the_ledger_are_private(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES)
    assert mode(state_dir) == 0o700
    assert mode(state_dir / "ledger.jsonl") == 0o600


def test_a_release_is_judged_and_previous_follows(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES)
    ledger(state_dir, release="v1.1.0", services={"api": {"image": "r/api:v1.1.0"}})
    assert ledger(state_dir, state="listed")["previous"] == ""
    marked = ledger(state_dir, release="v1.0.0", verdict="good", why="a quiet week")
    assert marked["entry"]["kind"] == "mark"
    assert (marked["current"], marked["previous"]) == ("v1.1.0", "v1.0.0")
    assert marked["releases"][1]["why"] == "a quiet week"
    assert not ledger(state_dir, release="v1.0.0", verdict="good")["changed"]


def test_listing_a_host_without_a_ledger_makes_nothing(state_dir):
    result = ledger(state_dir, state="listed")
    assert result.keys() == KEYS
    assert (result["changed"], result["entries"], result["releases"]) == (False, 0, [])
    assert not state_dir.exists()


def test_a_torn_line_is_told_and_survived(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES, verdict="good")
    with open(state_dir / "ledger.jsonl", "a") as stream:
        stream.write('{"v": 1, "kind": "release", "rel')

    listed = ledger(state_dir, state="listed")
    assert (listed["torn"], listed["current"]) == (True, "v1.0.0")
    assert "Line 2 of" in str(listed["warnings"])
    recorded = ledger(state_dir, release="v1.1.0", services={})
    assert recorded["torn"]
    after = ledger(state_dir, state="listed")
    assert (after["torn"], after["current"], after["previous"], after["entries"]) == (False, "v1.1.0", "v1.0.0", 2)
    assert json.loads(lines(state_dir)[2])["release"] == "v1.1.0"


def test_a_private_copy_of_the_env_stays_with_the_release(state_dir, tmp_path):
    env = tmp_path / ".env"
    env.write_bytes(b"PASSWORD=hunter2-hunter2\r\n")
    options = {"release": "v1.0.0", "services": SERVICES, "env_file": str(env)}
    copy = state_dir / "releases" / "v1.0.0" / "env"

    ledger(state_dir, check=True, **options)
    assert not copy.exists()
    result = ledger(state_dir, **options)
    assert copy.read_bytes() == env.read_bytes()
    assert (mode(copy), mode(copy.parent), mode(copy.parent.parent)) == (0o600, 0o700, 0o700)
    assert result["entry"]["env_sha256"] == hashlib.sha256(env.read_bytes()).hexdigest()
    assert "hunter2" not in json.dumps(result)
    assert not ledger(state_dir, **options)["changed"]


def test_a_copy_of_the_env_that_got_lost_is_made_again(state_dir, tmp_path):
    (tmp_path / ".env").write_text("A=1\n")
    options = {"release": "v1.0.0", "services": SERVICES, "env_file": str(tmp_path / ".env")}
    ledger(state_dir, **options)
    copy = state_dir / "releases" / "v1.0.0" / "env"
    copy.unlink()
    result = ledger(state_dir, **options)
    assert (result["changed"], result["entry"], copy.read_text()) == (True, None, "A=1\n")


def test_an_env_that_changed_is_recorded_and_copied(state_dir, tmp_path):
    env = tmp_path / ".env"
    options = {"release": "v1.0.0", "services": SERVICES, "env_file": str(env)}
    env.write_text("A=1\n")
    ledger(state_dir, **options)
    env.write_text("A=2\n")
    assert ledger(state_dir, **options)["entries"] == 2
    assert (state_dir / "releases" / "v1.0.0" / "env").read_text() == "A=2\n"


def test_pins_are_recorded(state_dir):
    pins = [{"path": "/srv/connectin/docker-compose.yml", "sha256": "ab" * 32}]
    assert ledger(state_dir, release="v1.0.0", services=SERVICES, pins=pins)["entry"]["pins"] == pins
    assert not ledger(state_dir, release="v1.0.0", services=SERVICES, pins=pins)["changed"]
    assert not ledger(state_dir, release="v1.0.0", services=SERVICES)["changed"]
    assert ledger(state_dir, release="v1.0.0", services=SERVICES, pins=[])["changed"]


def test_a_mark_of_a_release_that_never_ran_is_warned_of(state_dir):
    result = ledger(state_dir, release="v9.0.0", verdict="bad")
    assert result["changed"]
    assert "v9.0.0 never ran on this host" in str(result["warnings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"release": "../../etc/x", "services": SERVICES}, "'../../etc/x' cannot name a release"),
        ({"release": "previous", "verdict": "good"}, "'previous' is no tag"),
        ({"release": "v1"}, "Nothing is said about v1"),
        ({"release": "v1", "freeze": False}, "Nothing is said about v1"),
        ({"verdict": "good"}, "state is present but all of the following are missing: release"),
        ({"release": "v1", "services": {"api": "v1"}}, "services.api has to be a dictionary"),
        ({"release": "v1", "env_file": "/nowhere/.env"}, "There is no /nowhere/.env to keep"),
        ({"release": "v1", "verdict": "fine"}, "value of verdict must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(state_dir, options, message):
    result = ledger(state_dir, **options)
    assert result["failed"]
    assert message in result["msg"]
    assert not (state_dir / "ledger.jsonl").exists()


def test_a_state_directory_that_cannot_be_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    result = ledger(tmp_path / "file" / "state", release="v1", services=SERVICES)
    assert result["failed"]
    assert "Cannot create" in result["msg"]
    assert "rollback_state_dir" in result["msg"]


def test_appends_at_the_same_time_do_not_interleave(state_dir):
    long = "x" * 100_000
    running = [
        start("release_ledger", state_dir=str(state_dir), release=f"v1.0.{number}", services=SERVICES, why=long)
        for number in range(8)
    ]
    results = [module.result() for module in running]
    assert all(result["changed"] for result in results)
    # Each saw whole lines only, and as many as were there when its turn came.
    assert sorted(result["entries"] for result in results) == list(range(1, 9))
    assert {json.loads(line)["release"] for line in lines(state_dir)} == {f"v1.0.{number}" for number in range(8)}
    assert len(lines(state_dir)) == 8


def test_the_same_release_recorded_twice_at_the_same_time_is_one_line(state_dir):
    running = [
        start("release_ledger", state_dir=str(state_dir), release="v1.0.0", services=SERVICES) for _number in range(4)
    ]
    assert sorted(module.result()["changed"] for module in running) == [False, False, False, True]
    assert len(lines(state_dir)) == 1


BACK = {
    "release": "v1.0.0",
    "verdict": "good",
    "services": SERVICES,
    "left": "v1.1.0",
    "freeze": True,
    "who": "alice",
    "why": "503",
    "run_id": "run-a",
}


def kinds(state_dir):
    return [(line["kind"], line["release"], line["verdict"]) for line in map(json.loads, lines(state_dir))]


def test_one_call_enters_the_target_calls_what_was_left_bad_and_freezes(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES, verdict="good")
    ledger(state_dir, release="v1.1.0", services={}, verdict="good")
    predicted = ledger(state_dir, check=True, **BACK)
    assert len(lines(state_dir)) == 2
    done = ledger(state_dir, **BACK)
    assert kinds(state_dir)[2:] == [
        ("mark", "v1.1.0", "bad"),
        ("release", "v1.0.0", "good"),
        ("freeze", "v1.0.0", None),
    ]
    assert "".join(f"{line}\n" for line in lines(state_dir)[2:]) == done["diff"]["after"]
    again = ledger(state_dir, **BACK)
    assert (again["changed"], again["appended"], len(lines(state_dir))) == (False, [], 5)
    for result in (predicted, done, again):
        assert result.keys() == KEYS
        frozen = dict(result["frozen"])
        assert frozen.pop("at").endswith("Z")
        assert frozen == {"release": "v1.0.0", "who": "alice", "why": "503", "run_id": "run-a"}
        assert (result["current"], result["previous"], result["entries"]) == ("v1.0.0", "", 5)
    for result in (predicted, done):
        assert [line["kind"] for line in result["appended"]] == ["mark", "release", "freeze"]
        assert result["entry"] == result["appended"][1]


def test_an_append_that_was_cut_off_is_completed_by_the_next_call(state_dir):
    ledger(state_dir, release="v1.0.0", services=SERVICES, verdict="good")
    ledger(state_dir, release="v1.1.0", services={})
    ledger(state_dir, **BACK)
    whole = (state_dir / "ledger.jsonl").read_bytes()
    (state_dir / "ledger.jsonl").write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 20])
    again = ledger(state_dir, **BACK)
    assert [line["kind"] for line in again["appended"]] == ["freeze"]
    assert again["frozen"]["release"] == "v1.0.0"


def test_what_was_left_and_never_ran_here_is_not_marked(state_dir):
    result = ledger(state_dir, **{**BACK, "left": "v9"})
    assert [line["kind"] for line in result["appended"]] == ["release", "freeze"]
    assert "warnings" not in result


def test_a_freeze_is_lifted_once_and_says_who_did_it(state_dir):
    ledger(state_dir, **BACK)
    options = {"state": "thawed", "who": "bob", "why": "v1.2.0 repairs it"}
    predicted = ledger(state_dir, check=True, **options)
    assert ledger(state_dir, state="listed")["frozen"]["run_id"] == "run-a"
    done = ledger(state_dir, **options)
    for result in (predicted, done):
        assert result.keys() == KEYS
        assert (result["changed"], result["frozen"], result["current"]) == (True, None, "v1.0.0")
        assert (result["entry"]["kind"], result["entry"]["who"]) == ("thaw", "bob")
        assert result["appended"] == [result["entry"]]
    assert ledger(state_dir, state="listed")["frozen"] is None
    again = ledger(state_dir, **options)
    assert (again["changed"], again["entry"], len(lines(state_dir))) == (False, None, 3)


def test_thawing_a_host_without_a_ledger_makes_nothing(state_dir):
    assert not ledger(state_dir, state="thawed")["changed"]
    assert not state_dir.exists()


def test_a_freeze_by_hand_is_a_line_of_its_own(state_dir):
    result = ledger(state_dir, release="v1.0.0", freeze=True, who="alice", why="a quiet weekend")
    assert (result["entry"], result["frozen"]["why"], result["releases"]) == (None, "a quiet weekend", [])
    assert "warnings" not in result
    assert not ledger(state_dir, release="v1.0.0", freeze=True)["changed"]


class Engine(socketserver.ThreadingUnixStreamServer):
    """As much of a Docker engine as holding images asks for; ``images`` maps references to what inspect shows."""

    daemon_threads = True

    def __init__(self, path, images):
        self.images, self.created, self.refused = images, {}, set()
        super().__init__(str(path), EngineRequest)

    def get_request(self):
        request, _address = super().get_request()
        return request, ("local", 0)


class EngineRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=None):
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        path, server = unquote(urlsplit(self.path).path), self.server
        found = None
        if path == "/containers/json":
            found = [{"Id": name} for name in server.created]
        elif path.startswith("/containers/"):
            found = server.created.get(path.split("/")[2])
        elif path.startswith("/images/"):
            found = server.images.get(path[len("/images/") : -len("/json")])
        self.answer(200 if found is not None else 404, {"message": "none"} if found is None else found)

    def do_POST(self):
        name = parse_qs(urlsplit(self.path).query)["name"][0]
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if name in self.server.created or name in self.server.refused:
            return self.answer(409, {"message": f"the name {name} is in use"})
        image = self.server.images[asked["Image"]]
        self.server.created[name] = {"Id": name, "Image": image["Id"], "Config": asked, "Name": f"/{name}"}
        self.answer(201, {"Id": name})

    def do_DELETE(self):
        assert "v=1" in self.path
        self.server.created.pop(urlsplit(self.path).path.split("/")[2])
        self.answer(204)

    def log_message(self, *_args):
        pass


@pytest.fixture
def engine(tmp_path, monkeypatch):
    images = {f"r/api:v1.{number}.0": {"Id": f"sha256:0{number}", "Config": {}} for number in range(4)}
    images.update({image["Id"]: image for image in list(images.values())})
    server = Engine(tmp_path / "docker.sock", images)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    yield server
    server.shutdown()
    server.server_close()


def arrive(state_dir, number, verdict="good", **options):
    services = {"api": {"image": f"r/api:v1.{number}.0", "image_id": f"sha256:0{number}"}}
    return ledger(state_dir, release=f"v1.{number}.0", services=services, verdict=verdict, **options)


def held(result):
    return [(one["release"], one["service"]) for one in result["held"]]


def test_the_newest_good_releases_are_held_and_older_ones_let_go(state_dir, engine):
    for number, verdict in ((0, "good"), (1, "bad"), (2, "good")):
        arrive(state_dir, number, verdict)
    options = {"hold_images": True, "hold_releases": 2}
    predicted = arrive(state_dir, 2, check=True, **options)
    assert engine.created == {}
    done = arrive(state_dir, 2, **options)
    again = arrive(state_dir, 2, **options)
    names = ["connectin-rollback-hold-api-v1.0.0", "connectin-rollback-hold-api-v1.2.0"]
    assert sorted(engine.created) == names
    for result, changed in ((predicted, True), (done, True), (again, False)):
        assert (result["changed"], held(result)) == (changed, [("v1.0.0", "api"), ("v1.2.0", "api")])
        assert (result["not_held"], result["let_go"]) == ([], [])
    newer = arrive(state_dir, 3, **options)
    assert held(newer) == [("v1.2.0", "api"), ("v1.3.0", "api")]
    assert newer["let_go"] == [{"service": "api", "release": "v1.0.0", "image": "r/api:v1.0.0"}]
    assert sorted(engine.created) == [names[1], "connectin-rollback-hold-api-v1.3.0"]


def test_an_image_that_is_not_local_is_skipped_and_named(state_dir, engine):
    engine.images.clear()
    result = arrive(state_dir, 0, hold_images=True)
    assert result["not_held"] == [
        {"service": "api", "release": "v1.0.0", "image": "r/api:v1.0.0", "why": "not on this host"}
    ]
    assert (result["held"], engine.created) == ([], {})


def test_a_holder_that_cannot_be_made_is_named_and_the_others_are_made(state_dir, engine):
    engine.refused.add("connectin-rollback-hold-api-v1.0.0")
    arrive(state_dir, 0)
    result = arrive(state_dir, 1, hold_images=True)
    assert held(result) == [("v1.1.0", "api")]
    assert "is in use" in result["not_held"][0]["why"]
    assert "v1.0.0 is not held" in str(result["warnings"])


def test_an_engine_that_is_down_does_not_cost_the_entry(state_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/gone.sock")
    result = arrive(state_dir, 0, hold_images=True)
    assert (result["changed"], result["held"], len(lines(state_dir))) == (True, [], 1)
    assert "The ledger is written, but the images" in str(result["warnings"])
    assert result.keys() - {"warnings"} == KEYS
