"""What an operator reads: plan, refusals, candidates, outcome and report."""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timezone

import plans
import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _outcome, _plan, _report
from rollback_readings import INIT, POSTS, REACTED, REACTIONS, RENAME, container, history, migration, stack

NOW = datetime(2026, 1, 4, 12, 0, 0, tzinfo=timezone.utc)
PHASES = [{"name": "Prepare", "at": 100.0}, {"name": "Switch", "at": 112.34}, {"name": "end", "at": 115}]
RESET = {"phase": "Switch", "message": "api did not become healthy"}


def plan(stacks=None, database="default", **changes) -> dict:
    stacks = stacks or {"app1": stack(), "app2": stack()}
    directories = dict.fromkeys(("app1", "app2"), "/srv/connectin")
    return plans.plan(stacks, database, **{"project_dirs": directories, **changes})


def outcome(made=None, failures=None, now=None, rolled_back=(REACTIONS, RENAME), backups=(), **run) -> dict:
    """Return the outcome of a rollout; hosts that failed were held, out of rotation."""
    made = made or plan()
    failures = failures or {}
    after = {host: stack(runs="v1.1.0") for host in made["hosts"]} if now is None else now
    done = {"status": "done", "fault": "", "traffic": True, "touched": True, "drained": False}
    marks = {
        host: {**done, "status": "failed", "drained": True} if host in failures else done for host in made["hosts"]
    }
    values = {
        "phases": PHASES,
        "rolled_back": rolled_back,
        "backups": backups,
        "progress": marks,
        "step": {"end": "complete", "why": ""},
        "forward": False,
        **run,
    }
    return _outcome.outcome(made, failures, after, values)


# Variables


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("application, frontend", ["application", "frontend"]),
        ("25", ["25"]),
        ('["canary", "25%"]', ["canary", "25%"]),
        ("it's", ["it's"]),
    ],
)
def test_a_list_that_is_a_text_is_told_with_what_to_type(text, items):
    (line,) = _report.list_lines({"rollback_x": text, "rollback_y": ["application"], "rollback_z": []})
    said, _, command = line.partition("; next: ")
    assert said == "rollback_x is a list, and was given as a text"
    option, value = shlex.split(command)
    assert (option, json.loads(value)) == ("-e", {"rollback_x": items})


def test_a_command_that_is_a_text_is_not_repeated_with_the_name_of_one_host_in_it():
    (line,) = _report.list_lines({"rollback_drain_command": "lbctl drain app1"})
    assert line.endswith("where it is set: rollback_drain_command: [first, second]") and "app1" not in line


# Tables


def test_a_table_is_as_wide_as_its_widest_cells():
    assert _report.table(["a", "long"], [["wide", 1], ["", None]]) == [
        "a     long",
        "----  ----",
        "wide  1",
        "      None",
    ]


def test_a_table_without_rows_is_its_header():
    assert _report.table(["a"], []) == ["a", "-"]


# The plan


def test_a_plan_is_a_table_of_hosts_and_what_happens_to_each_migration():
    lines = _report.plan_lines(plan())
    assert lines[0] == "Rollback of application, database, frontend to v1.1.0"
    assert [line.split() for line in lines if line.startswith(("app1", "app2"))] == [
        ["app1", "api", "v1.2.0", "503", "v1.1.0", "61706976312e", "pull", "switch"],
        ["app1", "web", "v1.2.0", "200", "v1.1.0", "77656276312e", "pull", "switch"],
        ["app2", "api", "v1.2.0", "503", "v1.1.0", "61706976312e", "pull", "switch"],
        ["app2", "web", "v1.2.0", "200", "v1.1.0", "77656276312e", "pull", "switch"],
    ]
    (reactions,) = (line for line in lines if line.startswith(REACTIONS))
    assert "down  3 rows of public.reactions (drop table)" in reactions
    assert f"newer than {RENAME}, which goes down" in reactions
    assert lines[-1].startswith("The writers are stopped")


READY = {"path": "/backups/run1", "bytes": 5_000_000, "client_version": "17.6", "problems": [], "warnings": []}
DUMP = {"id": "run1", "kind": "full", "file": "/backups/run1/full.dump", "size": 2048, "sha256": "ab" * 32}


def test_a_plan_that_loses_data_says_what_is_dumped_where_and_how_much_that_is():
    (line,) = (
        each
        for each in _report.plan_lines(plan(database=history(backup=READY), backup=True))
        if "dump" in each or "Backup" in each
    )
    assert "the whole database, 5.0 MB at most, into app1:/backups/run1" in line


def test_a_plan_that_loses_data_without_a_backup_says_so():
    assert "No backup is made of what gets lost (rollback_backup is false)." in _report.plan_lines(plan())


def test_the_outcome_and_the_report_name_the_dumps_and_how_to_put_them_back():
    made = plan()
    result = outcome(made, rolled_back=[REACTIONS], backups=[DUMP])
    command = "ansible-playbook restore_backup.yml -e rollback_backup_id=run1"
    lines = _report.outcome_lines(result)
    assert "Backup: app1:/backups/run1/full.dump (2.0 kB)" in lines
    assert any(command in line for line in lines)
    text = report(result, made)
    assert f"| app1:`/backups/run1/full.dump` | 2.0 kB | `{'ab' * 32}` |" in text
    assert f"To put back what was lost: `{command}`" in text


def test_a_backup_of_a_run_that_lost_nothing_is_named_without_a_way_to_put_it_back():
    made = plan()
    result = outcome(made, {"app1": [RESET]}, {}, rolled_back=[], backups=[DUMP])
    lines = _report.outcome_lines(result)
    assert any(line.startswith("Backup: ") for line in lines)
    assert not any("restore_backup" in line for line in lines)


def test_backups_are_listed_with_their_host_newest_first():
    entry = {
        "id": "run1",
        "at": "2026-01-04T12:00:00Z",
        "release_from": "v1.2.0",
        "release_to": "v1.1.0",
        "dumps": [DUMP],
        "problems": [],
    }
    newer = {**entry, "id": "0-run2", "at": "2026-01-05T12:00:00Z"}
    found = _report.backup_list({"app1": {"backups": [entry, newer]}, "app2": {"unreachable": True}})
    assert [(each["id"], each["host"]) for each in found] == [("0-run2", "app1"), ("run1", "app1")]
    lines = _report.backup_lines(found)
    made = ["run1", "2026-01-04T12:00:00Z", "v1.2.0", "->", "v1.1.0", "full", "2.0", "kB", "app1", "-"]
    assert lines[3].split() == made
    assert "rollback_backup_id=<backup>" in lines[-1]
    assert _report.backup_lines([]) == ["There is no backup: only a rollback that loses data makes one."]


def test_a_restore_says_what_went_back_and_what_did_not():
    result = {
        "backup": {"kind": "lost", "id": "run1", "at": "2026-01-04T12:00:00Z"},
        "restored": {"public.reactions": 3},
        "left": ["1 row of public.reactions: the row they refer to is gone"],
    }
    assert _report.restore_lines(result) == [
        "Put back what the rollback lost, from the backup run1:",
        "  public.reactions: 3",
        "  not: 1 row of public.reactions: the row they refer to is gone",
    ]
    result["backup"].update(kind="full", release_from="v1.2.0")
    assert _report.restore_lines(result)[-1] == "next: start v1.2.0, whose schema the database has again"
    assert _report.restore_lines(result, predicted=True)[0].startswith("Would put back the whole database as it was at")


def test_a_plan_to_previous_says_so():
    assert _report.plan_lines(plan(release="previous"))[0].endswith("to v1.1.0 (previous)")


def test_a_plan_that_undoes_nothing_says_that_users_notice_nothing():
    made = plan(database=history(migration(INIT), migration(POSTS)))
    assert "database: no migration to undo; users notice nothing of it" in _report.plan_lines(made)


def test_a_plan_that_keeps_every_migration_does_not_announce_an_outage():
    lines = _report.plan_lines(plan(database=history(migration(INIT), migration(POSTS), REACTED)))
    assert any("keep" in line and line.startswith(REACTIONS) for line in lines)
    assert not any("writers are stopped" in line for line in lines)


def test_a_service_that_is_there_already_is_not_said_to_change():
    reading = stack(runs="v1.1.0")
    reading["services"]["api"]["target_local"] = True
    made = plan({"app1": reading}, history(migration(INIT), migration(POSTS)))
    assert [line.split()[-2:] for line in _report.plan_lines(made) if line.startswith("app1")] == [
        ["here", "none"],
        ["pull", "none"],
    ]


def test_an_api_that_is_only_stopped_for_the_database_says_so():
    made = plan({"app1": stack(runs="v1.1.0")}, parts=("database",))
    assert next(line for line in _report.plan_lines(made) if line.startswith("app1  api")).endswith("stop, start")


def test_a_container_without_a_health_answer_shows_its_state():
    reading = stack()
    reading["services"]["api"].update(running=container("api", "v1.3.0", state="restarting"), health=None)
    lines = _report.plan_lines(plan({"app1": reading}))
    assert ["app1", "api", "v1.3.0", "restarting"] in [line.split()[:4] for line in lines]


def test_warnings_are_the_last_thing_said():
    assert _report.plan_lines(plan(excluded={"app3": ""}))[-1].startswith("warning: app3 is excluded")


def test_a_plan_without_a_target_prints_no_table():
    assert _report.plan_lines(plan(release="")) == []


@pytest.mark.parametrize("database", [None, {"error": "down"}])
def test_a_database_that_was_not_read_is_not_described(database):
    assert not any(line.startswith("database:") for line in _report.plan_lines(plan(database=database)))


def test_a_plan_shows_its_batches_and_its_fingerprint():
    made = plan({"app1": stack(), "app2": stack(), "app3": stack()}, history(migration(INIT), migration(POSTS)))
    lines = _report.plan_lines(made)
    start = lines.index(f"plan {made['digest']}")
    assert [line.split() for line in lines[start + 1 : start + 6]] == [
        ["batch", "size", "hosts"],
        ["-----", "------", "-----"],
        ["1", "canary", "app1"],
        ["2", "50%", "app2"],
        ["3", "100%", "app3"],
    ]


def test_a_plan_of_one_host_or_without_a_change_shows_no_batches():
    assert not any(line.startswith("batch") for line in _report.plan_lines(plan({"app1": stack()})))
    there = plan(
        {"app1": stack(runs="v1.1.0"), "app2": stack(runs="v1.1.0")}, history(migration(INIT), migration(POSTS))
    )
    assert not any(line.startswith(("batch", "plan ")) for line in _report.plan_lines(there))


def test_a_plan_names_the_hosts_that_it_gives_back_to_their_users():
    lines = _report.plan_lines(plan(drained={"app2": True}))
    assert "out of rotation now, and given back at the target: app2" in lines
    assert not any("given back" in line for line in _report.plan_lines(plan()))


# Refusals


def test_every_refusal_has_its_place_its_code_and_its_next_command():
    lines = _report.refusal_lines(plan(consent=""))
    assert lines == [
        "Refused, and nothing was changed. 1 reason:",
        "  database: going to v1.1.0 loses data: 3 rows of public.reactions (drop table) [data_loss]",
        "      next: if that may be lost: -e rollback_confirm_data_loss=v1.1.0",
    ]


def test_refusals_are_counted():
    assert _report.refusal_lines(plan(consent="", missing=("app3",)))[0].endswith("2 reasons:")


def test_a_plan_that_is_not_refused_has_no_refusal_lines():
    assert _report.refusal_lines(plan()) == []


def test_a_refusal_without_a_target_ends_with_the_candidates():
    lines = _report.refusal_lines(plan(release=""))
    assert lines[3] == ""
    assert " ".join(lines[4].split()) == "release age state migrations to undo would be lost"


def test_candidates_say_what_is_known_of_them():
    rows = _plan.candidates({"app1": stack(), "app2": stack()}, history())
    lines = {line.split()[0]: line for line in _report.candidate_lines(rows, NOW)[2:]}
    assert lines["v1.2.0"].split("  ")[1].strip() == "1 d"
    assert "runs on 2, bad on 2" in lines["v1.2.0"]
    assert "good on 2" in lines["v1.1.0"]
    assert f"{REACTIONS}, {RENAME}" in lines["v1.1.0"]
    assert lines["v1.1.0"].endswith("3 rows of public.reactions (drop table)")
    assert "a tag, never recorded" in lines["v1.3.0"]
    assert "not known" in lines["v1.3.0"]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("", "-"),
        ("2026-01-04T12:00:01Z", "0 s"),
        ("2026-01-04T11:59:30Z", "30 s"),
        ("2026-01-04T11:58:30Z", "1 min"),
        ("2026-01-04T10:00:00Z", "2 h"),
        ("2026-01-01T12:00:00+00:00", "3 d"),
    ],
)
def test_an_age_is_told_in_its_largest_whole_unit(at, expected):
    assert _report.age(at, NOW) == expected


# Outcome


def test_a_run_that_reached_its_target_is_told_in_three_lines():
    assert _report.outcome_lines(outcome()) == [
        "Rolled back: v1.1.0 serves on app1, app2.",
        f"Migrations rolled back: {REACTIONS}, {RENAME}",
        "Time: Prepare 12.3 s, Switch 2.7 s",
    ]


def test_a_run_that_failed_on_one_host_names_it_with_what_runs_and_what_to_type():
    now = {"app1": stack(), "app2": stack(runs="v1.1.0")}
    step = {"end": "drain", "why": "too many failed"}
    lines = _report.outcome_lines(outcome(failures={"app1": [RESET]}, now=now, step=step))
    assert lines[0] == "HELD: v1.1.0 serves on app2, and not on every host. Out of rotation: app1."
    assert lines[1] == "  too many failed"
    first, second = (line for line in lines if line.startswith(("app1", "app2")))
    assert first.split()[:3] == ["app1", "v1.2.0", "v1.1.0"]
    assert "api v1.2.0 running 503" in first
    assert (first.split()[-1], second.split()[-1]) == ("no", "yes")
    assert "  app1: Switch: api did not become healthy" in lines
    assert sum(line.startswith("      next: ") for line in lines) == 1
    assert not any(line.startswith("  app2:") for line in lines)


def test_a_command_is_never_told_without_the_host_that_it_is_for():
    result = outcome(failures={"app1": [RESET]})
    # Held by an earlier run: this one did not come to it.
    result["hosts"]["app2"].update({"in_rotation": False, "reasons": [], "next": "mend the cause"})
    lines = _report.outcome_lines(result)
    place = lines.index("      next: mend the cause")
    assert lines[place - 1] == "  app2: out of rotation as before the run"


def test_a_failure_of_the_fleet_is_told_though_no_host_has_one():
    result = outcome(failures={"fleet": [{"phase": "Verify", "message": "the poll failed"}]})
    lines = _report.outcome_lines(result)
    assert "UNRESOLVED" in lines[0]
    assert "  Verify: the poll failed" in lines


def test_an_end_without_a_reason_of_its_own_has_no_empty_line_for_it():
    lines = _report.outcome_lines(outcome(failures={"app1": [RESET]}))
    assert lines[1].startswith("host ")


def test_a_database_that_went_forward_again_is_told_and_not_called_rolled_back():
    now = {"app1": stack(), "app2": stack()}
    lines = _report.outcome_lines(outcome(failures={"app1": [RESET]}, now=now, forward=True, backups=[DUMP]))
    assert "The database went forward again with the migrations of the release from before." in lines
    assert not any("rolled back: 2025" in line for line in lines)
    assert not any("restore_backup" in line for line in lines)


def test_what_was_lost_without_a_dump_is_told_when_the_database_went_forward_again():
    made = plan()
    assert made["database"]["lost"] and not made["database"]["dumps"]
    now = {"app1": stack(), "app2": stack()}
    result = outcome(made, failures={"app1": [RESET]}, now=now, forward=True)
    (line,) = [line for line in _report.outcome_lines(result) if line.startswith("Lost, and in no backup: ")]
    assert "3 rows of public.reactions" in line
    assert f"- lost, and in no backup: {line.partition(': ')[2]}" in report(result, made)
    assert not [line for line in _report.outcome_lines(outcome(made)) if line.startswith("Lost")]


# The report


def report(result: dict, made: dict, who: str = "alex", why: str = "503") -> str:
    return _report.report(result, made, who, why, "2026-01-04T12:00:00Z")


def test_the_report_says_who_why_what_and_what_was_lost():
    text = report(outcome(), plan())
    assert text.startswith("# Rollback to v1.1.0: done\n")
    for line in (
        "- run: `run1`, finished 2026-01-04T12:00:00Z",
        "- who: alex",
        "- why: 503",
        "Rolled back: v1.1.0 serves on app1, app2.",
        "| app1 | v1.2.0 | api v1.1.0 running 200; web v1.1.0 running 200 | yes |",
        f"- rolled back: `{REACTIONS}`",
        "- lost, with consent: 3 rows of public.reactions (drop table)",
        "| Prepare | 12.3 |",
        "- [ ] a regression test for it",
    ):
        assert line in text.splitlines()


def test_the_report_of_a_run_that_failed_does_not_claim_success_or_loss():
    text = report(outcome(failures={"app1": [RESET]}, rolled_back=()), plan(), who="", why="")
    assert text.startswith("# Rollback to v1.1.0: NOT reached\n")
    assert "HELD: v1.1.0 serves on app2, and not on every host. Out of rotation: app1." in text.splitlines()
    assert any(line.startswith("| app1 |") and line.endswith("| no |") for line in text.splitlines())
    assert "- no migration went down" in text
    assert "lost, with consent" not in text
    assert "- who: not named" in text
    assert "- why: not given" in text


def test_the_report_names_the_migrations_that_were_kept_and_why():
    made = plan(database=history(migration(INIT), migration(POSTS), REACTED))
    assert f"- kept: `{REACTIONS}` (it only adds: the target runs on the newer schema)" in report(
        outcome(made, rolled_back=()), made
    )


# Locks and the freeze

LOCK = {
    "run_id": "run1",
    "owner": "ann",
    "since": "2026-01-01T00:00:00Z",
    "expires": "2099-01-01T00:00:00Z",
    "reason": "r",
}
UNREADABLE = {"run_id": "", "owner": "", "since": "", "expires": "", "reason": "cannot be read"}
FREEZE = {"release": "v1.1.0", "at": "2026-01-01T00:00:00Z", "who": "ann", "why": "", "run_id": "run1"}


def test_locks_are_listed_with_how_to_take_the_run_up_and_how_to_give_it_up():
    lines = _report.lock_lines({"app1": {"removed": LOCK}, "app2": {"removed": LOCK}, "app3": {"removed": None}})
    assert [line.split()[:3] for line in lines[2:4]] == [["app1", "run1", "ann"], ["app2", "run1", "ann"]]
    assert lines[4:] == [
        "next: take the run up again with the same command and -e rollback_resume=run1",
        "or, when that run is given up: ansible-playbook lock.yml -e rollback_lock_break=run1",
    ]


def test_a_lock_that_cannot_be_read_can_only_be_given_up():
    lines = _report.lock_lines({"app1": {"removed": UNREADABLE}})
    assert "rollback_lock_break=unreadable" in lines[-1]
    assert not any("rollback_resume" in line for line in lines)


def test_without_a_lock_there_is_one_line():
    assert _report.lock_lines({"app1": {"removed": None}}) == ["No host is locked."]


@pytest.mark.parametrize(("run_id", "hosts"), [("run1", ["app1"]), ("unreadable", ["app2"]), ("run2", [])])
def test_the_hosts_of_a_run_are_those_that_it_locked(run_id, hosts):
    locks = {"app1": {"removed": LOCK}, "app2": {"removed": UNREADABLE}, "app3": {"removed": None}}
    assert _report.locked_by(locks, run_id) == hosts


def test_deploys_wait_while_a_rollback_is_at_work_though_nothing_is_frozen():
    ledgers = {"app1": {"frozen": None}}
    assert _report.freeze_lines(ledgers, {"app1": {"removed": None}}) == []
    lines = _report.freeze_lines(ledgers, {"app1": {"removed": LOCK}})
    assert "run1" in "\n".join(lines) and lines[0].startswith("A rollback is at work")


def test_a_freeze_is_told_with_the_command_that_lifts_it():
    lines = _report.freeze_lines({"app1": {"frozen": FREEZE}, "app2": {"frozen": None}})
    assert [line.split()[0] for line in lines[3:4]] == ["app1"]
    assert lines[-1].endswith("ansible-playbook deploy_freeze.yml -e rollback_freeze=lift")
