from __future__ import annotations

import json

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _ledger
from ansible_collections.connectin.rollback.plugins.module_utils._ledger import Entry

OLD = {"api": {"image": "r/api:v1.0.0", "digest": "sha256:aa", "image_id": "sha256:01", "build_id": "v1.0.0"}}
NEW = {"api": {"image": "r/api:v1.0.0", "digest": "sha256:bb", "image_id": "sha256:02", "build_id": "v1.0.0"}}
UNSTATED = {"kind": None, "verdict": None, "services": None, "migrations": None, "pins": None, "why": "", "run_id": ""}


def came(release, verdict="unknown", **facts):
    return Entry(kind="release", release=release, at=f"at {release}", verdict=verdict, who="deployer", **facts)


def marked(release, verdict, why=""):
    return Entry(kind="mark", release=release, at="later", verdict=verdict, who="alice", why=why)


def verdicts(entries):
    return {release["release"]: release["verdict"] for release in _ledger.fold(entries)}


HISTORY = (came("v1.0.0", "good"), came("v1.1.0"), marked("v1.1.0", "good", "quiet"), came("v1.2.0"))


def text(*entries):
    return "".join(entry.as_line() for entry in entries)


def test_what_was_written_is_read_back():
    entry = came("v1.1.0", services=OLD, migrations=("20260101_init",), pins=({"path": "/x", "sha256": "ff"},))
    assert _ledger.parse(text(entry, *HISTORY)) == _ledger.Ledger((entry, *HISTORY))


def test_an_empty_ledger_knows_nothing():
    assert _ledger.parse("") == _ledger.Ledger()
    assert _ledger.fold(()) == []
    assert _ledger.current(()) == _ledger.previous(()) == ""
    assert _ledger.pins(()) == []


def test_a_torn_last_line_is_left_out():
    whole = text(*HISTORY)
    ledger = _ledger.parse(whole + came("v1.3.0").as_line()[:40])
    assert (ledger.entries, ledger.torn, ledger.unreadable) == (HISTORY, True, (5,))


def test_a_last_line_that_only_lacks_its_newline_counts():
    ledger = _ledger.parse(text(*HISTORY)[:-1])
    assert (ledger.entries, ledger.torn) == (HISTORY, False)


def test_zeros_that_a_power_cut_left_are_a_torn_line():
    ledger = _ledger.parse(text(*HISTORY) + "\0" * 512)
    assert (ledger.entries, ledger.torn) == (HISTORY, True)


def test_the_append_after_a_torn_line_starts_on_a_fresh_one():
    torn = text(*HISTORY) + came("v1.3.0").as_line()[:40]
    following = came("v1.4.0")
    ledger = _ledger.parse(torn + _ledger.appended(torn, following))
    assert (ledger.entries, ledger.torn, ledger.unreadable) == ((*HISTORY, following), False, (5,))


def test_several_entries_are_appended_as_lines_of_their_own():
    torn = text(*HISTORY)[:-10]
    assert _ledger.appended(torn, *HISTORY[:2]) == "\n" + text(*HISTORY[:2])
    assert _ledger.appended(torn) == ""


def test_the_append_after_a_whole_line_adds_no_empty_one():
    assert _ledger.appended(text(*HISTORY), HISTORY[0]) == HISTORY[0].as_line()
    assert _ledger.appended("", HISTORY[0]) == HISTORY[0].as_line()


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '"v1"',
        "{}",
        '{"v": "1", "kind": "release", "release": "v1"}',
        '{"v": 1, "kind": "release", "release": ""}',
        '{"v": 1, "kind": "release", "release": 7}',
        '{"v": 1, "kind": null, "release": "v1"}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_entry_is_unreadable(line):
    assert _ledger.parse(f"{line}\n{came('v1').as_line()}").unreadable == (1,)


def test_a_line_of_a_later_version_is_read_as_far_as_it_is_known():
    line = json.dumps({"v": 9, "kind": "release", "release": "v2", "verdict": "superb", "mood": {"a": 1}, "pins": 4})
    (entry,) = _ledger.parse(line + "\n").entries
    assert (entry.release, entry.verdict, entry.pins) == ("v2", "unknown", None)


def test_an_entry_of_an_unknown_kind_changes_nothing():
    entries = (*HISTORY, Entry(kind="holiday", release="v1.2.0", verdict="good"))
    assert _ledger.fold(entries) == _ledger.fold(HISTORY)
    assert _ledger.current(entries) == "v1.2.0"


def test_a_line_separator_in_a_reason_cuts_no_line():
    raw = json.dumps({"v": 1, "kind": "release", "release": "v1", "why": "a\u2028b"}, ensure_ascii=False)
    assert _ledger.parse(raw + "\n").entries[0].why == "a\u2028b"


def test_the_fold_has_the_last_arrival_first():
    assert [release["release"] for release in _ledger.fold(HISTORY)] == ["v1.2.0", "v1.1.0", "v1.0.0"]
    back = (*HISTORY, came("v1.1.0"))
    assert [release["release"] for release in _ledger.fold(back)] == ["v1.1.0", "v1.2.0", "v1.0.0"]


def test_the_fold_tells_all_of_a_release():
    entries = (came("v1.0.0", services=OLD, migrations=("m1",)), marked("v1.0.0", "bad", "slow"))
    assert _ledger.fold(entries) == [
        {
            "release": "v1.0.0",
            "verdict": "bad",
            "at": "at v1.0.0",
            "who": "deployer",
            "why": "slow",
            "services": OLD,
            "migrations": ["m1"],
        }
    ]


def test_what_an_arrival_does_not_state_stays_known():
    (release,) = _ledger.fold((came("v1.0.0", services=OLD, migrations=("m1",)), came("v1.0.0")))
    assert (release["services"], release["migrations"]) == (OLD, ["m1"])


def test_no_migrations_is_not_the_same_as_unknown_migrations():
    assert _ledger.fold((came("v1.0.0", migrations=()),))[0]["migrations"] == []
    assert _ledger.fold((came("v1.0.0"),))[0]["migrations"] is None


def test_a_release_that_was_only_marked_never_ran():
    assert _ledger.fold((marked("v9", "good"),)) == []
    assert _ledger.previous((marked("v9", "good"), came("v1"))) == ""
    assert not _ledger.ran_here((marked("v9", "good"),), "v9")


def test_a_verdict_stands_when_the_same_images_come_back_unjudged():
    assert verdicts((came("v1", "good", services=OLD), came("v1", services=OLD))) == {"v1": "good"}


def test_a_verdict_falls_when_other_images_come_under_the_same_tag():
    assert verdicts((came("v1", "good", services=OLD), came("v1", services=NEW))) == {"v1": "unknown"}


def test_a_verdict_given_before_a_release_came_stands():
    assert verdicts((marked("v1", "bad"), came("v1", services=OLD))) == {"v1": "bad"}


def test_a_mark_of_unknown_withdraws_a_verdict():
    assert verdicts((came("v1", "good"), marked("v1", "unknown"))) == {"v1": "unknown"}


def test_previous_is_the_newest_good_one_other_than_the_current():
    assert _ledger.previous(HISTORY) == "v1.1.0"
    assert _ledger.previous((*HISTORY, marked("v1.2.0", "good"))) == "v1.1.0"


def test_previous_passes_over_bad_and_unknown_releases():
    assert _ledger.previous((*HISTORY, marked("v1.1.0", "bad"))) == "v1.0.0"
    assert _ledger.previous((*HISTORY, marked("v1.1.0", "unknown"))) == "v1.0.0"


def test_previous_after_going_back_is_the_good_one_before():
    assert _ledger.previous((*HISTORY, came("v1.1.0", "good"))) == "v1.0.0"


def test_previous_is_the_current_one_when_something_unrecorded_runs():
    assert _ledger.previous(HISTORY[:3], running="v1.9.0") == "v1.1.0"
    assert _ledger.previous(HISTORY, running="v1.1.0") == "v1.0.0"


def test_previous_is_empty_when_nothing_good_ran():
    assert _ledger.previous((came("v1"), came("v2"))) == ""


def test_the_clock_of_the_host_does_not_order_the_ledger():
    entries = (
        Entry(kind="release", release="v1", at="2026-05-04T00:00:00Z"),
        Entry(kind="release", release="v2", at="1970-01-01T00:00:00Z"),
    )
    assert _ledger.current(entries) == "v2"
    assert [release["release"] for release in _ledger.fold(entries)] == ["v2", "v1"]


def test_the_newest_pins_that_are_stated_count():
    first, second = {"path": "/a", "sha256": "1"}, {"path": "/b", "sha256": "2"}
    assert _ledger.pins((came("v1", pins=(first,)), came("v2", pins=(second,)), marked("v2", "bad"))) == [second]
    assert _ledger.pins((came("v1", pins=(first,)), came("v2", pins=()))) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../v1", "v1/2", "-v1", "v 1", "v1\n", "v1é", "v" * 129, "previous"])
def test_what_no_tag_can_be_called_is_no_release(name):
    with pytest.raises(_ledger.LedgerError):
        _ledger.check_release(name)


@pytest.mark.parametrize("name", ["v1.4.2", "2026-05-04_1", "main.7c1e", "v" * 128])
def test_a_tag_is_a_release(name):
    assert _ledger.check_release(name) == name


def wanted(release="v1.0.0", **params):
    return _ledger.wanted({**UNSTATED, "release": release, **params}, "now", "me", params.get("env_sha256"))


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"verdict": "good"}, "mark"),
        ({"services": OLD}, "release"),
        ({"migrations": []}, "release"),
        ({"pins": []}, "release"),
        ({"env_sha256": "ff"}, "release"),
        ({"pins": [], "kind": "mark"}, "mark"),
        ({"kind": "release"}, "release"),
    ],
)
def test_the_kind_follows_from_what_is_stated(params, kind):
    assert wanted(**params).kind == kind


def test_a_release_without_a_verdict_is_unknown_and_a_mark_without_one_states_none():
    assert wanted(services=OLD).verdict == "unknown"
    assert wanted(kind="mark", pins=[]).verdict is None


def test_a_mark_that_says_nothing_is_refused():
    with pytest.raises(_ledger.LedgerError, match=r"Nothing is said about v1\.0\.0\. Give a verdict"):
        wanted()


def test_a_mark_with_services_is_refused():
    with pytest.raises(_ledger.LedgerError, match="services cannot go with it"):
        wanted(kind="mark", verdict="good", services=OLD)


@pytest.mark.parametrize("services", [{"api": "r/api:v1"}, {"api": {"image": "r/api:v1", "tag": "v1"}}, {"api": None}])
def test_services_of_another_shape_are_refused_by_name(services):
    with pytest.raises(_ledger.LedgerError, match=r"services\.api has to be"):
        wanted(services=services)


def test_services_are_filled_up_with_all_facts_as_texts():
    assert wanted(services={"api": {"build_id": 4711, "digest": None}}).services == {
        "api": {"image": "", "digest": "", "image_id": "", "build_id": "4711"}
    }


FULL = {"services": OLD, "migrations": ["m1"], "verdict": "good"}
RECORDED = (came("v0"), came("v1.0.0", "good", services=OLD, migrations=("m1",), pins=({"path": "/a", "sha256": "1"},)))


def test_the_same_facts_need_no_entry():
    assert _ledger.next_entry(RECORDED, wanted(**FULL)) is None
    assert _ledger.next_entry(RECORDED, wanted(**FULL, pins=[{"path": "/a", "sha256": "1"}])) is None
    assert _ledger.next_entry(RECORDED, wanted(services=OLD)) is None
    assert _ledger.next_entry(RECORDED, wanted(verdict="good")) is None


def test_another_reason_alone_needs_no_entry():
    assert _ledger.next_entry(RECORDED, wanted(verdict="good", why="still good")) is None


@pytest.mark.parametrize(
    "change", [{"services": NEW}, {"migrations": ["m1", "m2"]}, {"migrations": []}, {"env_sha256": "ff"}]
)
def test_other_facts_are_another_arrival(change):
    assert _ledger.next_entry(RECORDED, wanted(**{**FULL, **change})).kind == "release"


def test_a_release_that_is_not_current_arrives_anew():
    assert _ledger.next_entry((*RECORDED, came("v2")), wanted(**FULL)).kind == "release"


@pytest.mark.parametrize("change", [{"verdict": "bad"}, {"pins": []}])
def test_a_release_that_runs_already_and_is_only_judged_anew_is_marked(change):
    entry = _ledger.next_entry(RECORDED, wanted(**{**FULL, **change}))
    assert (entry.kind, entry.services) == ("mark", None)
    assert _ledger.fold((*RECORDED, entry))[0]["at"] == "at v1.0.0"


def test_pins_of_an_unjudged_release_do_not_withdraw_its_verdict():
    entry = _ledger.next_entry(RECORDED, wanted(services=OLD, pins=[]))
    assert entry.verdict is None
    assert verdicts((*RECORDED, entry))["v1.0.0"] == "good"


def test_a_release_that_was_never_seen_can_be_marked():
    assert _ledger.next_entry((), wanted(verdict="bad")).kind == "mark"
    assert _ledger.next_entry((marked("v1.0.0", "bad"),), wanted(verdict="bad")) is None


FREEZE = Entry(kind="freeze", release="v1.1.0", at="then", who="alice", why="503", run_id="run-a")
THAW = Entry(kind="thaw", release="v1.1.0", at="later", who="bob", why="repaired")


@pytest.mark.parametrize(
    ("entries", "frozen"),
    [
        ((), False),
        (HISTORY, False),
        ((*HISTORY, FREEZE), True),
        ((FREEZE, *HISTORY), True),
        ((FREEZE, THAW), False),
        ((FREEZE, THAW, FREEZE), True),
    ],
)
def test_deploys_are_frozen_until_it_is_lifted_whatever_else_is_recorded(entries, frozen):
    told = {"release": "v1.1.0", "at": "then", "who": "alice", "why": "503", "run_id": "run-a"}
    assert _ledger.frozen(iter(entries)) == (told if frozen else None)


def test_a_run_freezes_once_and_another_run_or_release_once_more():
    wanted = came("v1.1.0", run_id="run-a")
    freeze = _ledger.next_freeze(HISTORY, wanted)
    assert (freeze.kind, freeze.release, freeze.run_id, freeze.verdict) == ("freeze", "v1.1.0", "run-a", None)
    assert _ledger.next_freeze((*HISTORY, freeze), wanted) is None
    assert _ledger.next_freeze((*HISTORY, freeze), came("v1.1.0", run_id="run-b")).run_id == "run-b"
    assert _ledger.next_freeze((*HISTORY, freeze), came("v1.0.0", run_id="run-a")).release == "v1.0.0"


def test_only_what_is_frozen_is_thawed():
    assert _ledger.next_thaw(HISTORY, "now", "bob", "", "") is None
    thaw = _ledger.next_thaw((FREEZE,), "now", "bob", "repaired", "run-b")
    assert (thaw.kind, thaw.release, thaw.who, thaw.why, thaw.run_id) == ("thaw", "v1.1.0", "bob", "repaired", "run-b")
    assert _ledger.next_thaw((FREEZE, thaw), "now", "bob", "", "") is None


def test_freezes_and_broken_locks_say_nothing_about_releases():
    entries = (*HISTORY, FREEZE, THAW, _ledger.broken_lock(HISTORY, "run-a", "now", "bob", "dead"))
    assert _ledger.parse(text(*entries)).entries == entries
    assert (_ledger.fold(entries), _ledger.current(entries)) == (_ledger.fold(HISTORY), "v1.2.0")
    assert _ledger.previous(entries) == _ledger.previous(HISTORY)
    assert {entry.kind for entry in entries} == set(_ledger.KINDS)


def test_a_lock_can_be_broken_where_no_release_is_recorded():
    entry = _ledger.broken_lock((), "", "now", "bob", "")
    assert _ledger.parse(entry.as_line()).entries == (entry,)


@pytest.mark.parametrize(
    ("left", "marked_bad"),
    [("v1.2.0", True), ("", False), ("v1.1.0", False), ("v9.0.0", False)],
)
def test_the_release_that_was_left_is_called_bad_if_it_ran_here_and_is_another(left, marked_bad):
    wanted = Entry(kind="release", release="v1.1.0", at="now", who="alice", why="503", run_id="run-a")
    mark = _ledger.next_left(HISTORY, left, wanted)
    assert bool(mark) is marked_bad
    if mark:
        assert mark == Entry("mark", "v1.2.0", "now", "bad", who="alice", why="503", run_id="run-a")
        assert _ledger.next_left((*HISTORY, mark), left, wanted) is None


def test_a_release_can_be_named_only_to_freeze():
    params = dict.fromkeys(("kind", "verdict", "services", "migrations", "pins"))
    wanted = _ledger.wanted({**params, "release": "v1", "why": "", "run_id": "", "freeze": True}, "now", "alice", None)
    assert _ledger.next_entry((), wanted) is None
    with pytest.raises(_ledger.LedgerError, match="Nothing is said"):
        _ledger.wanted({**params, "release": "v1", "why": "", "run_id": "", "freeze": False}, "now", "alice", None)
