from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest
from module_run import run, start

KEYS = {"changed", "entry", "entries", "current", "previous", "releases", "torn", "diff"}
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
