from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _lock
from ansible_collections.connectin.rollback.plugins.module_utils._lock import Lock

NOW = _lock.from_iso("2026-05-04T03:00:00Z")
ALICE = Lock(True, "run-a", "alice", "503 on /health", "2026-05-04T02:00:00Z", "2026-05-04T04:00:00Z")
STALE = Lock(False, "run-a", "alice", "503 on /health", "2026-05-04T00:00:00Z", "2026-05-04T02:00:00Z")
BOB = Lock(run_id="run-b", owner="bob", reason="v1.2.0 is slow")


def test_no_file_is_no_lock():
    assert _lock.parse(None, NOW) == Lock()
    assert not Lock().expired


def test_what_was_written_is_read_back():
    assert _lock.parse(ALICE.as_text(), NOW) == ALICE


def test_a_lock_is_held_until_the_second_its_lease_ends():
    until = _lock.from_iso(ALICE.expires)
    assert _lock.parse(ALICE.as_text(), until - 1).held
    assert not _lock.parse(ALICE.as_text(), until).held


def test_an_expired_lock_still_says_whose_it_was():
    assert _lock.parse(STALE.as_text(), NOW) == STALE
    assert STALE.expired


@pytest.mark.parametrize(
    "text", ["", "\0\0\0", "{", "[]", "null", "{}", ALICE.as_text()[:50], ALICE.as_text().replace("T04:00:00Z", "")]
)
def test_a_lock_that_cannot_be_read_is_held(text):
    lock = _lock.parse(text, NOW)
    assert lock.held
    assert lock.reason == _lock.UNREADABLE


def test_a_lock_without_a_run_id_is_held_by_nobody_who_could_give_it_back():
    assert _lock.parse(ALICE.as_text().replace("run-a", ""), NOW).reason == _lock.UNREADABLE


def test_a_free_lock_is_taken_for_the_lease():
    outcome = _lock.acquire(Lock(), BOB, NOW, 60)
    assert outcome.lock == Lock(True, "run-b", "bob", "v1.2.0 is slow", "2026-05-04T03:00:00Z", "2026-05-04T03:01:00Z")
    assert (outcome.changed, outcome.taken_over, outcome.removed) == (True, None, None)


def test_the_same_run_renews_its_lease_and_keeps_the_rest():
    outcome = _lock.acquire(ALICE, Lock(run_id="run-a"), NOW, 7200)
    assert outcome.changed
    assert outcome.lock == Lock(
        True, "run-a", "alice", "503 on /health", "2026-05-04T02:00:00Z", "2026-05-04T05:00:00Z"
    )
    assert outcome.taken_over is None


def test_the_same_run_gets_its_expired_lock_back():
    outcome = _lock.acquire(STALE, Lock(run_id="run-a", owner="bob", reason="continued"), NOW, 60)
    assert (outcome.lock.held, outcome.lock.since) == (True, STALE.since)
    assert (outcome.lock.owner, outcome.lock.reason) == ("bob", "continued")
    assert outcome.taken_over is None


def test_renewing_twice_within_a_second_is_one_change():
    once = _lock.acquire(ALICE, Lock(run_id="run-a"), NOW, 60).lock
    assert not _lock.acquire(once, Lock(run_id="run-a"), NOW + 0.5, 60).changed


def test_a_held_lock_is_refused_with_all_that_one_needs_to_know():
    with pytest.raises(_lock.LockError) as refusal:
        _lock.acquire(ALICE, BOB, NOW, 60)
    for part in ("alice", ALICE.since, ALICE.expires, "run run-a", "503 on /health", "-e rollback_resume=run-a"):
        assert part in str(refusal.value)
    assert str(refusal.value).endswith("ansible-playbook lock.yml -e rollback_lock_break=run-a")
    assert refusal.value.lock == ALICE


def test_a_lock_that_cannot_be_read_is_refused_with_how_to_break_it():
    with pytest.raises(_lock.LockError, match="cannot be read.*lock.yml -e rollback_lock_break=unreadable"):
        _lock.acquire(_lock.parse("", NOW), BOB, NOW, 60)


def test_an_expired_lock_of_another_run_is_taken_over():
    outcome = _lock.acquire(STALE, BOB, NOW, 60)
    assert (outcome.lock.run_id, outcome.lock.since) == ("run-b", "2026-05-04T03:00:00Z")
    assert outcome.taken_over == STALE


@pytest.mark.parametrize(("run_id", "lease"), [("", 60), ("  ", 60), ("run-b", 0), ("run-b", -1)])
def test_a_lock_for_nobody_or_for_no_time_is_refused(run_id, lease):
    with pytest.raises(_lock.LockError):
        _lock.acquire(Lock(), Lock(run_id=run_id), NOW, lease)


def test_a_run_gives_back_only_its_own_lock():
    assert _lock.release(ALICE, "run-a") == _lock.Outcome(Lock(), True, removed=ALICE)
    assert _lock.release(ALICE, "run-b") == _lock.Outcome(ALICE, False)
    assert _lock.release(Lock(), "") == _lock.Outcome(Lock(), False)


def test_an_unreadable_lock_is_not_given_back_by_a_run_without_a_name():
    unreadable = _lock.parse("", NOW)
    assert not _lock.release(unreadable, "").changed


@pytest.mark.parametrize("found", [ALICE, STALE, _lock.parse("", NOW)])
def test_any_lock_can_be_broken(found):
    assert _lock.break_lock(found) == _lock.Outcome(Lock(), True, removed=found)


@pytest.mark.parametrize(
    ("found", "run_id"), [(ALICE, "run-a"), (STALE, "run-a"), (_lock.parse("", NOW), "unreadable")]
)
def test_the_lock_that_was_meant_is_broken(found, run_id):
    assert _lock.break_lock(found, run_id).removed == found


@pytest.mark.parametrize(
    ("found", "run_id", "said"),
    [
        (ALICE, "run-b", "that of run run-a, held by alice since .* rollback_lock_break=run-a"),
        (ALICE, "unreadable", "that of run run-a"),
        (_lock.parse("", NOW), "run-a", "cannot be read, not that of run run-a.* rollback_lock_break=unreadable"),
    ],
)
def test_a_lock_that_changed_meanwhile_is_not_broken(found, run_id, said):
    with pytest.raises(_lock.LockError, match=said) as refusal:
        _lock.break_lock(found, run_id)
    assert refusal.value.lock == found


def test_breaking_no_lock_changes_nothing():
    assert _lock.break_lock(Lock()) == _lock.break_lock(Lock(), "run-a") == _lock.Outcome(Lock(), False)


def test_times_are_whole_seconds_in_utc():
    assert _lock.to_iso(NOW + 0.9) == "2026-05-04T03:00:00Z"


@pytest.mark.parametrize(
    ("lock", "run_id", "expected"),
    [
        ({"run_id": "r1", "reason": "rollback to v1.1.0: 503s"}, "r1", "v1.1.0"),
        ({"run_id": "r1", "reason": "rollback to v1.1.0"}, "r1", "v1.1.0"),
        ({"run_id": "r1", "reason": "rollback to v1.1.0"}, "r2", ""),
        ({"run_id": "r1", "reason": "restore of a backup"}, "r1", ""),
        ({"run_id": "", "reason": ""}, "", ""),
        ({}, "r1", ""),
    ],
)
def test_the_lock_of_a_run_names_its_target(lock, run_id, expected):
    assert _lock.pinned(lock, run_id) == expected
