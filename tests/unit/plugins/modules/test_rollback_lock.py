from __future__ import annotations

import json
import os
import stat

import pytest
from module_run import run, start

KEYS = {"changed", "lock", "taken_over", "removed", "entry", "diff"}
FREE = {"held": False, "run_id": "", "owner": "", "reason": "", "since": "", "expires": ""}


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


def lock(state_dir, **options):
    return run("rollback_lock", state_dir=str(state_dir), **options)


def stored(state_dir):
    return json.loads((state_dir / "lock.json").read_text())


def ledger(state_dir):
    return [json.loads(line) for line in (state_dir / "ledger.jsonl").read_text().splitlines()]


def expire(state_dir):
    past = {**stored(state_dir), "expires": "2026-01-01T00:00:00Z"}
    (state_dir / "lock.json").write_text(json.dumps(past))


def test_check_and_real_then_check_and_real_again(state_dir):
    options = {"run_id": "run-a", "owner": "alice", "reason": "503"}
    predicted = lock(state_dir, check=True, **options)
    assert not state_dir.exists()
    done = lock(state_dir, **options)
    assert (stored(state_dir)["run_id"], stored(state_dir)["owner"]) == ("run-a", "alice")
    before = stored(state_dir)
    checked_again = lock(state_dir, check=True, **options)
    assert stored(state_dir) == before
    done_again = lock(state_dir, **options)
    assert stored(state_dir)["since"] == before["since"]
    for result in (predicted, done, checked_again, done_again):
        assert result.keys() == KEYS
        assert result["lock"]["held"]
        assert result["taken_over"] is None


def test_the_lock_and_its_directory_are_private(state_dir):
    lock(state_dir, run_id="run-a")
    assert stat.S_IMODE(os.stat(state_dir).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(state_dir / "lock.json").st_mode) == 0o600


def test_the_owner_is_by_default_whoever_is_logged_in(state_dir):
    result = run(
        "rollback_lock", state_dir=str(state_dir), run_id="run-a", environment={"SUDO_USER": "alice", "USER": "root"}
    )
    assert result["lock"]["owner"] == "alice"


def test_a_run_continued_by_somebody_else_stays_that_of_its_owner(state_dir):
    lock(state_dir, run_id="run-a", owner="alice", reason="503", lease=60)
    before = stored(state_dir)
    result = lock(state_dir, run_id="run-a", lease=7200)
    assert (result["lock"]["owner"], result["lock"]["reason"]) == ("alice", "503")
    assert result["lock"]["since"] == before["since"]
    assert result["changed"]
    assert stored(state_dir)["expires"] > before["expires"]


@pytest.mark.parametrize("check", [True, False])
def test_a_lock_that_another_run_holds_is_refused(state_dir, check):
    lock(state_dir, run_id="run-a", owner="alice", reason="503")
    before = stored(state_dir)
    result = lock(state_dir, run_id="run-b", owner="bob", check=check)
    assert result["failed"]
    for part in ("alice", before["since"], "run-a", "503", "-e rollback_resume=run-a"):
        assert part in result["msg"]
    assert (result["lock"]["run_id"], result["lock"]["held"]) == ("run-a", True)
    assert (result["changed"], result["taken_over"], result["removed"]) == (False, None, None)
    assert stored(state_dir) == before


def test_an_expired_lock_is_taken_over_and_told(state_dir):
    lock(state_dir, run_id="run-a", owner="alice")
    expire(state_dir)
    result = lock(state_dir, run_id="run-b", owner="bob")
    assert (result["lock"]["run_id"], stored(state_dir)["run_id"]) == ("run-b", "run-b")
    assert (result["taken_over"]["run_id"], result["taken_over"]["held"]) == ("run-a", False)


def test_a_run_gives_its_own_lock_back(state_dir):
    lock(state_dir, run_id="run-a")
    predicted = lock(state_dir, state="absent", run_id="run-a", check=True)
    assert (state_dir / "lock.json").exists()
    done = lock(state_dir, state="absent", run_id="run-a")
    assert not (state_dir / "lock.json").exists()
    for result in (predicted, done):
        assert result.keys() == KEYS
        assert (result["changed"], result["lock"], result["removed"]["run_id"]) == (True, FREE, "run-a")
        assert result["diff"]["after"] == ""
    again = lock(state_dir, state="absent", run_id="run-a")
    assert (again["changed"], again["removed"], again["lock"]) == (False, None, FREE)


def test_the_lock_of_another_run_is_not_given_back(state_dir):
    lock(state_dir, run_id="run-a")
    result = lock(state_dir, state="absent", run_id="run-b")
    assert (result["changed"], result["lock"]["run_id"]) == (False, "run-a")
    assert stored(state_dir)["run_id"] == "run-a"


def test_any_lock_can_be_broken(state_dir):
    lock(state_dir, run_id="run-a", owner="alice")
    result = lock(state_dir, state="broken")
    assert (result["changed"], result["lock"], result["removed"]["owner"]) == (True, FREE, "alice")
    assert not (state_dir / "lock.json").exists()
    assert not lock(state_dir, state="broken")["changed"]


def test_the_ledger_tells_who_broke_a_lock_and_why(state_dir):
    run("release_ledger", state_dir=str(state_dir), release="v1.0.0", services={}, verdict="good")
    lock(state_dir, run_id="run-a", owner="alice")
    options = {"state": "broken", "run_id": "run-a", "owner": "bob", "reason": "the controller burnt"}
    predicted = lock(state_dir, check=True, **options)
    assert (len(ledger(state_dir)), stored(state_dir)["run_id"]) == (1, "run-a")
    done = lock(state_dir, **options)
    assert ledger(state_dir)[1] == done["entry"]
    for result in (predicted, done):
        entry = result["entry"]
        assert result.keys() == KEYS
        assert [entry[key] for key in ("kind", "release", "who", "why", "run_id")] == [
            "lock_broken",
            "v1.0.0",
            "bob",
            "the controller burnt",
            "run-a",
        ]
    again = lock(state_dir, **options)
    assert (again["changed"], again["entry"], len(ledger(state_dir))) == (False, None, 2)
    listed = run("release_ledger", state_dir=str(state_dir), state="listed")
    assert (listed["current"], listed["releases"][0]["verdict"]) == ("v1.0.0", "good")


@pytest.mark.parametrize("check", [True, False])
def test_a_lock_that_somebody_took_meanwhile_is_not_broken(state_dir, check):
    lock(state_dir, run_id="run-b", owner="bob")
    result = lock(state_dir, state="broken", run_id="run-a", check=check)
    assert result["failed"]
    assert "that of run run-b, held by bob" in result["msg"]
    assert (result["lock"]["run_id"], stored(state_dir)["run_id"]) == ("run-b", "run-b")
    assert not (state_dir / "ledger.jsonl").exists()


def test_a_lock_whose_breaking_cannot_be_recorded_stays(state_dir):
    lock(state_dir, run_id="run-a")
    (state_dir / "ledger.jsonl").mkdir()
    assert lock(state_dir, state="broken")["failed"]
    assert stored(state_dir)["run_id"] == "run-a"


@pytest.mark.parametrize("state", ["absent", "broken"])
def test_a_host_without_a_state_directory_has_no_lock_to_remove(state_dir, state):
    assert not lock(state_dir, state=state, run_id="run-a")["changed"]
    assert not state_dir.exists()


def test_a_lock_that_cannot_be_read_holds_until_it_is_broken(state_dir):
    state_dir.mkdir()
    (state_dir / "lock.json").write_text("")
    result = lock(state_dir, run_id="run-a")
    assert result["failed"]
    assert "cannot be read" in result["msg"]
    assert "rollback_lock_break=unreadable" in result["msg"]
    assert lock(state_dir, state="broken", run_id="run-a")["failed"]
    assert lock(state_dir, state="broken", run_id="unreadable")["changed"]
    assert ledger(state_dir)[0]["run_id"] == ""
    assert lock(state_dir, run_id="run-a")["lock"]["held"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "run_id"),
        ({"run_id": ""}, "run_id is empty"),
        ({"run_id": "run-a", "lease": 0}, "A lease of 0 seconds"),
        ({"state": "absent"}, "run_id"),
    ],
)
def test_what_makes_no_sense_is_refused(state_dir, options, message):
    result = lock(state_dir, **options)
    assert result["failed"]
    assert message in result["msg"]
    assert not (state_dir / "lock.json").exists()


def test_a_state_directory_that_cannot_be_is_told_without_a_lock(tmp_path):
    (tmp_path / "file").write_text("")
    result = lock(tmp_path / "file" / "state", run_id="run-a")
    assert result["failed"]
    assert result["lock"] is None
    assert "Cannot create" in result["msg"]


@pytest.mark.parametrize("expired", [False, True])
def test_of_many_runs_at_the_same_time_one_gets_the_lock(state_dir, expired):
    if expired:
        lock(state_dir, run_id="run-old")
        expire(state_dir)
    running = [start("rollback_lock", state_dir=str(state_dir), run_id=f"run-{number}") for number in range(8)]
    results = [module.result() for module in running]
    winners = [result for result in results if not result.get("failed")]
    assert len(winners) == 1
    assert stored(state_dir)["run_id"] == winners[0]["lock"]["run_id"]
    assert {result["lock"]["run_id"] for result in results} == {winners[0]["lock"]["run_id"]}
    assert bool(winners[0]["taken_over"]) is expired
