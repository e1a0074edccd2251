"""Keep or down: every migration that the target does not know."""

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils._migration_policy import choose, counted_loss
from rollback_readings import loss, migration

ADDS = {"additive": True}
CHANGES = {"additive": False, "reasons": ["it renames a column", "it drops another"]}
KEEP, DOWN = {"directive": "keep"}, {"directive": "down"}
FAILED = {"state": "failed"}


def unknown(*changes: dict) -> list[dict]:
    """Return migrations newest first, named after their age: ``m0`` is the newest."""
    return [migration(f"m{index}", **change) for index, change in enumerate(changes)]


def actions(choices) -> str:
    return " ".join(choice.action for choice in choices)


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [
        ([], ""),
        ([ADDS], "keep"),
        ([CHANGES], "down"),
        ([ADDS, CHANGES], "down down"),
        ([CHANGES, ADDS], "down keep"),
        ([ADDS, CHANGES, ADDS], "down down keep"),
        ([CHANGES, ADDS, CHANGES, ADDS], "down down down keep"),
        ([ADDS, ADDS, ADDS], "keep keep keep"),
        ([{**ADDS, **DOWN}], "down"),
        ([{**CHANGES, **KEEP}], "keep"),
        ([ADDS, {**ADDS, **DOWN}], "down down"),
        ([{**CHANGES, **KEEP}, CHANGES], "down down"),
        ([CHANGES, {**CHANGES, **KEEP}], "down keep"),
        ([{**ADDS, **FAILED}], "down"),
        ([{**CHANGES, **FAILED, **KEEP}], "keep"),
        ([{"additive": False, "reasons": []}], "down"),
    ],
)
def test_auto_keeps_what_only_adds_unless_something_older_goes_down(newest_first, expected):
    assert actions(choose(unknown(*newest_first), "auto")) == expected


@pytest.mark.parametrize("policy", ["keep", "down"])
def test_a_policy_of_the_operator_goes_before_directives_and_parse_trees(policy):
    choices = choose(unknown(ADDS, CHANGES, {**CHANGES, **KEEP}, {**ADDS, **DOWN}, FAILED), policy)
    assert {choice.action for choice in choices} == {policy}
    assert {choice.reason for choice in choices} == {f"rollback_migrations is '{policy}'"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ADDS, "it only adds: the target runs on the newer schema"),
        (CHANGES, "it renames a column"),
        ({"additive": False, "reasons": []}, "it was not recognised as additive"),
        (FAILED, "it failed halfway"),
        ({**ADDS, **DOWN}, "its down.sql says '-- rollback: down'"),
        ({**CHANGES, **KEEP}, "its down.sql says '-- rollback: keep'"),
    ],
)
def test_every_choice_has_its_reason(change, reason):
    assert choose(unknown(change), "auto")[0].reason == reason


def test_what_goes_down_for_the_sake_of_an_older_one_names_the_oldest_of_them():
    choices = choose(unknown(ADDS, CHANGES, ADDS, CHANGES), "auto")
    assert choices[0].reason == "newer than m3, which goes down"
    assert choices[1].reason == "it renames a column"
    assert choices[2].reason == "newer than m3, which goes down"


def test_a_migration_that_is_kept_has_no_price():
    assert choose(unknown({**ADDS, "loss": [loss(7)]}), "auto")[0].price == ()


@pytest.mark.parametrize("policy", ["auto", "down"])
def test_a_migration_that_goes_down_has_the_price_that_counts(policy):
    entries = [loss(0), loss(7), loss(None)]
    assert choose(unknown({**CHANGES, "loss": entries}), policy)[0].price == (loss(7), loss(None))


def test_a_loss_that_nobody_could_count_is_a_loss():
    assert counted_loss({"loss": [{"kind": "unknown", "object": "", "text": ""}, loss(0)]}) == (
        {"kind": "unknown", "object": "", "text": ""},
    )


def test_a_migration_without_any_loss_has_no_price():
    assert counted_loss({}) == counted_loss({"loss": None}) == ()


def test_a_choice_is_plain_data_for_the_plan():
    assert choose(unknown({**CHANGES, "loss": [loss(7)]}), "auto")[0].as_dict() == {
        "name": "m0",
        "action": "down",
        "reason": "it renames a column",
        "price": [loss(7)],
    }


def test_an_unknown_policy_is_an_error():
    with pytest.raises(ValueError, match="auto, keep, down, not 'sideways'"):
        choose([], "sideways")
