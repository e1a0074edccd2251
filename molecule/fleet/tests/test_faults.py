"""Faults, one after the other: each ends with one release that serves users, and the next run reaches the target."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess

import pytest
from faults import disk_full, drain, engine_stopped, powered_off, sick_target, ssh_cut
from fleet import CHECKOUT, DOWN_IN_V120, differences
from load import Browser, Load
from one_release import STATE, answers, assert_one_release_serves, look_at_all, servers

ROLLBACK = "rollback_full.yml"
# Without a migration to take down: batches of app1, app2 and app3, each out of rotation while it is switched.
ONLINE = {"release": "v1.0.0", "rollback_batches": ["canary", "50%", "100%"]}
# With data to lose: the writers stop, app1 is gated alone, then the others start at once.
LOSSY = {"release": "v1.1.0", "rollback_confirm_data_loss": "v1.1.0"}
# A target that is sick is found to be so in seconds.
# Texts, as `-e name=value` gives them.
IMPATIENT = {"rollback_start_deadline": "8", "rollback_health_deadline": "6"}
# Two of three hosts may fail.
TOLERANT = {"rollback_max_failed": "2", "rollback_min_serving": "1"}
# What `docker compose` is told to apply migrations, as roles/stack has it.
MIGRATE = ["run", "--rm", "--no-deps", "-T", "api", "node_modules/.bin/prisma", "migrate", "deploy"]
REACHED = {"schema": "v1.1.0", "target": "v1.0.0"}
DOWN = {"schema": "v1.1.0", "target": "v1.1.0"}
BACK = {"schema": "v1.2.0", "target": "v1.1.0"}


def breaker(fleet, stack, fault, *words):
    """Return what breaks something now, and mends it when the stack is left."""
    return lambda: stack.enter_context(fault(fleet, *words))


def settled(fleet) -> None:
    """What a controller that was killed had begun on a host has ended: nothing of it runs there any more."""
    for host in fleet.hosts:
        fleet.eventually(lambda host=host: not fleet.shell(host, "pgrep -f '[B]ECOME-SUCCESS' || true").strip(), 60)


def lock_of(fleet) -> str:
    """The run that holds the lock of the fleet, which is on its first host."""
    return json.loads(fleet.shell("app1", f"cat {STATE}/lock.json"))["run_id"]


def assert_stopped(fleet, run_id: str, *, releases: set[str], schemas: set[str]) -> None:
    """A run that was killed: its lock stands, the database is whole, and the API answers as one release or not."""
    settled(fleet)
    assert lock_of(fleet) == run_id
    catalog = fleet.catalog()
    assert catalog in [fleet.catalog(f"connectin_ref_{schema.replace('.', '_')}") for schema in schemas]
    gone = {name for name, back in fleet.rows().items() if back}
    assert gone == (set(DOWN_IN_V120) if catalog == fleet.catalog("connectin_ref_v1_1_0") else set())
    health, _pages = answers(fleet)
    said = {release for status, release in health if status == 200}
    assert len(said) <= 1 and said <= releases, health
    published = {fleet.published_digest("api", release) for release in releases}
    for host, seen in look_at_all(fleet, fleet.hosts).items():
        for digests in seen.running("api"):
            assert published & set(digests), (host, releases, seen)


def assert_refused_for_others(fleet, run_id: str, **extra) -> None:
    """Another run is told whose turn it is, and how to take that run up."""
    run = fleet.play("rollback_plan.yml", **extra)
    assert run.rc == 2, run.text
    assert "[lock_held]" in run.text and f"-e rollback_resume={run_id}" in run.text, run.text


def test_a_controller_that_is_killed_in_any_phase_is_taken_up_again_until_the_target_serves(fleet, at):
    at("v1.2.0")
    before, both, target = {"v1.2.0"}, {"v1.2.0", "v1.1.0"}, {"v1.1.0"}

    def writers_are_going() -> bool:
        return not all(seen.running("api") for seen in look_at_all(fleet, fleet.hosts).values())

    untouched = fleet.fingerprint()
    fleet.kill_when("] Plan", ROLLBACK, **LOSSY)
    settled(fleet)
    assert differences(untouched, fleet.fingerprint()) == []

    fleet.kill_when("dumping the whole database", ROLLBACK, **LOSSY)
    run_id = lock_of(fleet)
    assert_stopped(fleet, run_id, releases=before, schemas=before)
    assert all(len(seen.running("api")) == 1 for seen in look_at_all(fleet, fleet.hosts).values())
    assert_refused_for_others(fleet, run_id, **LOSSY)

    resumed = {**LOSSY, "rollback_resume": run_id}
    fleet.kill_when("] Quiesce", ROLLBACK, once=writers_are_going, **resumed)
    assert_stopped(fleet, run_id, releases=before, schemas=before)
    fleet.kill_when("] Migrate down", ROLLBACK, **resumed)
    assert_stopped(fleet, run_id, releases=before, schemas=both)
    fleet.kill_when("batch 1 (", ROLLBACK, **resumed)
    assert_stopped(fleet, run_id, releases=target, schemas=target)
    assert_refused_for_others(fleet, run_id, release="v1.1.0")
    fleet.kill_when("batch 2 (", ROLLBACK, **resumed)
    assert_stopped(fleet, run_id, releases=target, schemas=target)
    fleet.kill_when("] Verify", ROLLBACK, **resumed)
    assert_stopped(fleet, run_id, releases=target, schemas=target)
    fleet.kill_when("] Record", ROLLBACK, **resumed)
    assert_stopped(fleet, run_id, releases=target, schemas=target)

    run = fleet.play(ROLLBACK, **resumed)

    assert_one_release_serves(fleet, "v1.1.0", run, "reached", **DOWN)
    for host in fleet.hosts:
        entries = [json.loads(line) for line in fleet.shell(host, f"cat {STATE}/ledger.jsonl").splitlines()]
        arrived = [entry for entry in entries if entry["kind"] == "release"][-1]
        assert (arrived["release"], arrived["verdict"]) == ("v1.1.0", "good"), (host, arrived)


def files_of(fleet) -> dict[str, tuple[str, str]]:
    """{host: (SHA-256 of .env with its mode, commit)}, what a restore puts back byte for byte."""
    return {
        host: (
            fleet.shell(host, "cd /srv/connectin && sha256sum .env && stat -c '%a %U' .env"),
            fleet.shell(host, "git -C /srv/connectin rev-parse HEAD"),
        )
        for host in fleet.hosts
    }


def test_a_target_that_is_sick_on_its_canary_sends_the_fleet_back_also_when_the_controller_is_killed_then(fleet, at):
    at("v1.2.0")
    files, kept = files_of(fleet), {**ONLINE, "release": "v1.1.0", "rollback_migrations": "keep", **IMPATIENT}

    # v1.1.0 cannot run on the column that v1.2.0 renamed.
    fleet.kill_when("] Restore", ROLLBACK, **kept)
    run_id = lock_of(fleet)
    assert_stopped(fleet, run_id, releases={"v1.2.0", "v1.1.0"}, schemas={"v1.2.0"})
    run = fleet.play(ROLLBACK, **kept, rollback_resume=run_id)

    assert_one_release_serves(fleet, "v1.2.0", run, "restored", **BACK)
    assert files_of(fleet) == files


@pytest.mark.long
def test_a_target_that_is_sick_after_data_was_lost_sends_the_database_forward_again_with_the_rows(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    reactions = fleet.query("select * from reactions order by id")
    files = files_of(fleet)
    # Nobody is sent to app1, so there is nothing it could go back to. The first try is killed when the rows are gone.
    drain(fleet, "app1")
    deploy, broken_deploy = MIGRATE, [*MIGRATE[:-3], "false"]
    lossy = {
        **LOSSY,
        "rollback_database_runner": "app2",
        "rollback_migrate_command": f"{{{{ {broken_deploy} if inventory_hostname == 'app2' else {deploy} }}}}",
    }
    fleet.kill_when("batch 1 (", ROLLBACK, **lossy)
    lossy["rollback_resume"] = lock_of(fleet)

    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {"batch 1 (": breaker(fleet, broken, sick_target, "app1")}, ROLLBACK, **lossy, **IMPATIENT
        )

    # app2, which comes first, cannot run the migrations: app3 does, and app2 serves nobody.
    assert_one_release_serves(fleet, "v1.2.0", run, "restored", held=["app1", "app2"], **BACK)
    assert fleet.query("select * from reactions order by id") == reactions
    assert [files_of(fleet)[host] == files[host] for host in ("app2", "app3")] == [True, True]
    assert "The database went forward again" in run.text
    assert "The database did not go forward again from here" in run.text, run.text


def test_hosts_that_are_lost_in_mid_switch_are_held_and_picked_up_when_they_are_back(fleet, at):
    at("v1.1.0")
    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {
                "batch 2 (": breaker(fleet, broken, ssh_cut, "app2"),
                "batch 3 (": breaker(fleet, broken, powered_off, "app3"),
            },
            ROLLBACK,
            **ONLINE,
            **TOLERANT,
        )
        lost = ["app2", "app3"]
        assert_one_release_serves(fleet, "v1.0.0", run, "held", held=lost, lost=lost, **REACHED)
    # app3 has booted, and its containers of before with it: nobody is sent there.
    fleet.eventually(lambda: fleet.health("app3")[0] == 200)
    assert_one_release_serves(fleet, "v1.0.0", run, "held", held=lost, lost=lost, **REACHED)

    # Nobody could take the lock from them: the command in the table is that of the run that has it.
    again = fleet.run(_next_command(run, "app3"))

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


def _next_command(run, host: str) -> list[str]:
    """The command that a table names for a host, as a person would paste it."""
    (said,) = set(
        re.findall(rf"^ +{host}: .*\n +next: .*?(ansible-playbook \S+\.yml(?: -e \S+)*)", run.text, re.MULTILINE)
    )
    return said.split()


@pytest.mark.long
def test_a_canary_that_fails_by_its_own_fault_is_held_and_another_host_is_the_canary(fleet, at):
    at("v1.1.0")
    with contextlib.ExitStack() as broken:
        run = fleet.play_through({"batch 1 (": breaker(fleet, broken, engine_stopped, "app1")}, ROLLBACK, **ONLINE)
        assert "batch 1 (canary): app1" in run.text and "batch 2 (canary): app2" in run.text, run.text
        assert_one_release_serves(fleet, "v1.0.0", run, "held", held=["app1"], lost=["app1"], **REACHED)
    fleet.eventually(lambda: fleet.health("app1")[0] == 200)

    again = fleet.run(_next_command(run, "app1"))

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


@pytest.mark.long
def test_more_hosts_than_may_fail_send_the_others_back_also_those_that_users_had_reached(fleet, at):
    at("v1.1.0")
    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {
                "batch 2 (": breaker(fleet, broken, engine_stopped, "app2"),
                "batch 3 (": breaker(fleet, broken, sick_target, "app3"),
            },
            ROLLBACK,
            **ONLINE,
            **IMPATIENT,
        )
        assert "more than rollback_max_failed (1)" in run.text, run.text
        # The engine that does not answer cannot be sent back: its host stays out of rotation.
        assert_one_release_serves(fleet, "v1.1.0", run, "restored", held=["app2"], lost=["app2"], **REACHED)
    fleet.eventually(lambda: fleet.health("app2")[0] == 200)

    again = fleet.play(ROLLBACK, **ONLINE)

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


@pytest.mark.long
def test_an_engine_that_stops_and_a_target_that_is_sick_on_one_host_are_held_and_the_others_serve(fleet, at):
    at("v1.1.0")
    before = fleet.fingerprint()
    with engine_stopped(fleet, "app2"):
        refused = fleet.play(ROLLBACK, **ONLINE)
    assert refused.rc == 2 and "[engine_down]" in refused.text and "app2" in refused.text, refused.text
    fleet.eventually(lambda: fleet.health("app2")[0] == 200)
    assert _without(differences(before, fleet.fingerprint()), "app2 engine") == []

    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {
                "batch 1 (": breaker(fleet, broken, engine_stopped, "app2"),
                "batch 3 (": breaker(fleet, broken, sick_target, "app3"),
            },
            ROLLBACK,
            **ONLINE,
            **TOLERANT,
            **IMPATIENT,
        )
        held = ["app2", "app3"]
        assert_one_release_serves(fleet, "v1.0.0", run, "held", held=held, lost=["app2"], **REACHED)
    # The engine has started, and the containers of before with it: nobody is sent there.
    fleet.eventually(lambda: fleet.health("app2")[0] == 200)
    assert_one_release_serves(fleet, "v1.0.0", run, "held", held=held, lost=["app2"], **REACHED)

    # Next the disk of app2 is full, before anything is changed: the lock cannot be taken there.
    with disk_full(fleet, "app2", STATE):
        stopped = fleet.play(ROLLBACK, **ONLINE)
    assert re.search(r"app2: Prepare: .*No space left", stopped.text), stopped.text
    assert "batch 1" not in stopped.text and "written down" not in stopped.text, stopped.text
    assert_one_release_serves(fleet, "v1.0.0", stopped, "held", held=held, lost=["app2"], **REACHED)

    again = fleet.play(ROLLBACK, **ONLINE)

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


@pytest.mark.long
def test_a_host_whose_disk_is_full_when_it_is_switched_is_held_and_picked_up_when_there_is_space(fleet, at):
    at("v1.1.0")
    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {"] Prepare": breaker(fleet, broken, disk_full, "app2", "/srv/connectin/.git")}, ROLLBACK, **ONLINE
        )
        assert re.search(r"app2: Switch: .*(No space left|diskspace)", run.text), run.text
        assert_one_release_serves(fleet, "v1.0.0", run, "held", held=["app2"], **REACHED)

    # git alone would have left files of both releases, which the next run had to refuse.
    assert fleet.shell("app2", "git -C /srv/connectin status --porcelain") == ""
    again = fleet.play(ROLLBACK, **ONLINE)

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


@pytest.fixture
def kinds(fleet, tmp_path, monkeypatch) -> dict[str, tuple[str, ...]]:
    """app1 serves the API only and app3 the pages only; app2 serves both. Returns the services of the first two."""
    # The sandbox's load balancer has a server of every host in all backends.
    own = {"app1": {"rollback_haproxy_backends": ["api"]}, "app3": {"rollback_haproxy_backends": ["web", "assets"]}}
    groups = {"connectin_api": ["app1", "app2"], "connectin_web": ["app2", "app3"]}
    inventory = {group: {"hosts": {host: own.get(host, {}) for host in hosts}} for group, hosts in groups.items()}
    (tmp_path / "kinds.json").write_text(json.dumps(inventory))
    monkeypatch.setenv("ANSIBLE_INVENTORY", f"{CHECKOUT}/inventories/sandbox,{tmp_path}/kinds.json")
    return {"app1": ("api",), "app3": ("web",)}


@pytest.mark.long
def test_each_kind_of_host_has_a_canary_and_what_goes_wrong_on_one_kind_concerns_all_of_them(fleet, at, kinds):
    at("v1.1.0")
    for host, other in (("app1", "web"), ("app3", "api")):
        fleet.shell(host, f"cd /srv/connectin; docker compose rm --stop --force {other} 2>&1")

    # The API does not run well on the host that has nothing else: the pages go back as well.
    with contextlib.ExitStack() as broken:
        run = fleet.play_through(
            {"batch 1 (": breaker(fleet, broken, sick_target, "app1")}, ROLLBACK, **ONLINE, **IMPATIENT
        )
    assert "batch 1 (canary): app1, app3" in run.text, run.text
    assert_one_release_serves(fleet, "v1.1.0", run, "restored", parts=kinds, **REACHED)

    # The host that has both is lost: the API and the pages are served by the others. The sandbox's pages take the posts
    # from the API of their own host, so the release's smoke tests would find none.
    apart = {**ONLINE, "rollback_smoke_script": "none"}
    with contextlib.ExitStack() as broken:
        run = fleet.play_through({"batch 2 (": breaker(fleet, broken, engine_stopped, "app2")}, ROLLBACK, **apart)
        assert_one_release_serves(fleet, "v1.0.0", run, "held", held=["app2"], lost=["app2"], parts=kinds, **REACHED)

    again = fleet.play(ROLLBACK, **ONLINE)

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", parts=kinds, **REACHED)


def _without(lines: list[str], part: str) -> list[str]:
    return [line for line in lines if not line.startswith(part)]


@pytest.mark.long
def test_a_host_that_was_off_before_is_left_out_when_the_load_balancer_confirms_and_picked_up_later(fleet, at):
    at("v1.1.0")
    with powered_off(fleet, "app3"):
        refused = fleet.play(ROLLBACK, **ONLINE)
        assert refused.rc in (2, 4) and "[unreachable]" in refused.text, refused.text
        refused = fleet.play(ROLLBACK, **ONLINE, rollback_exclude="app3")
        assert refused.rc == 2 and "[exclude_serving]" in refused.text, refused.text
        drain(fleet, "app3")
        run = fleet.play(ROLLBACK, **ONLINE, rollback_exclude="app3")
        assert_one_release_serves(fleet, "v1.0.0", run, "reached", held=["app3"], lost=["app3"], **REACHED)
    fleet.eventually(lambda: fleet.health("app3")[0] == 200)
    assert set(servers(fleet)["app3"].values()) == {"MAINT"}

    again = fleet.play(ROLLBACK, **ONLINE)

    assert_one_release_serves(fleet, "v1.0.0", again, "reached", **REACHED)


def containers(fleet) -> dict[str, str]:
    return {host: fleet.shell(host, "docker ps --no-trunc --quiet | sort") for host in fleet.hosts}


def test_no_host_is_touched_without_the_load_balancer_and_no_request_is_lost_without_the_registry(fleet, at):
    at("v1.1.0")
    before = containers(fleet)
    with contextlib.ExitStack() as broken:
        stopped = fleet.play_through({"batch 1 (": breaker(fleet, broken, powered_off, "lb")}, ROLLBACK, **ONLINE)
    assert containers(fleet) == before
    # The load balancer that is off says nothing of the host that was to be drained.
    assert_one_release_serves(fleet, "v1.1.0", stopped, "failed", unsure=["app1"], **REACHED)

    balancer = fleet.state["load_balancer"]
    api, web = (f"http://{balancer['host']}:{balancer[part]}" for part in ("api", "web"))
    for host in fleet.hosts:
        fleet.shell(host, "docker image rm -f $(docker images -q '*/connectin/*:v1.0.0' | sort -u) >/dev/null")
    user = Browser(web)
    user.load()
    assert user.release == "v1.1.0"
    during = []
    with contextlib.ExitStack() as broken, Load(api, web, rate=40, workers=12) as load:
        load.wait_for(40)
        run = fleet.play_through(
            {
                "] Switch": breaker(fleet, broken, powered_off, "registry"),
                "batch 2 (": lambda: during.extend(user.broken_assets()),
                "batch 3 (": lambda: during.extend(user.broken_assets()),
            },
            ROLLBACK,
            **ONLINE,
        )
        load.wait_for(80)
    assert load.result.failed == 0, "\n".join(load.result.lines())
    assert load.result.total > 400, "\n".join(load.result.lines())
    written = fleet.query("select title, count(*) from posts where title like 'load %' group by title")
    assert sorted(written) == sorted((title, 1) for title in load.result.written)
    assert during == [] and user.broken_assets(times=3) == []
    assert_one_release_serves(fleet, "v1.0.0", run, "reached", **REACHED)


@pytest.fixture
def clocks_off(fleet, tmp_path, monkeypatch):
    """app2 is an hour ahead of the others and app3 an hour behind, for all that Ansible runs there.

    The containers share the machine's clock, so it is the modules' Python that is told another time.
    """
    hosts = {}
    for host, offset in (("app2", "+1h"), ("app3", "-1h")):
        script = f'#!/bin/sh\nexec faketime -f {offset} /usr/bin/python3 "$@"\n'
        fleet.shell(host, f"printf '%s' '{script}' >/usr/local/bin/python3-off; chmod 755 /usr/local/bin/python3-off")
        hosts[host] = {"ansible_python_interpreter": "/usr/local/bin/python3-off"}
    (tmp_path / "clocks.json").write_text(json.dumps({"connectin": {"hosts": hosts}}))
    monkeypatch.setenv("ANSIBLE_INVENTORY", f"{CHECKOUT}/inventories/sandbox,{tmp_path}/clocks.json")


@pytest.mark.usefixtures("clocks_off")
@pytest.mark.long
def test_of_two_rollbacks_that_start_at_once_one_gets_through_on_hosts_whose_clocks_differ_by_hours(fleet, at):
    at("v1.1.0")
    plays = [(ROLLBACK, {**ONLINE, "rollback_who": who, "rollback_reason": "at once"}) for who in ("ann", "bob")]

    runs = dict(zip(("ann", "bob"), fleet.play_together(*plays)))

    assert sorted(run.rc for run in runs.values()) == [0, 2], "\n".join(run.text for run in runs.values())
    winner, loser = sorted(runs, key=lambda who: runs[who].rc)
    assert re.search(rf"held by {winner} .*-e rollback_resume=\S+", runs[loser].text), runs[loser].text
    assert "batch 1" not in runs[loser].text
    assert_one_release_serves(fleet, "v1.0.0", runs[winner], "reached", **REACHED)
    for run in runs.values():
        assert re.search(r"the hosts' clocks differ by 72\d\d s", run.text), run.text
    for host in fleet.hosts:
        entries = [json.loads(line) for line in fleet.shell(host, f"cat {STATE}/ledger.jsonl").splitlines()]
        assert [entry["release"] for entry in entries if entry["kind"] == "release"][-1] == "v1.0.0", (host, entries)
        (arrived,) = {entry["who"] for entry in entries if entry.get("run_id")}
        assert arrived == winner
    # What is newest is decided by the order of the ledger, not by the hour.
    back = fleet.play("rollback_plan.yml", release="previous")
    assert "frozen" in back.text, back.text


# Makes every change of the schema take its time, so that the fault comes while one is under way.
SLOW = """
CREATE FUNCTION public.slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); END';
CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.slow();
"""
QUICK = "DROP EVENT TRIGGER slow; DROP FUNCTION public.slow();"


@pytest.mark.long
def test_a_database_that_restarts_in_the_middle_of_migrate_down_is_unchanged_and_its_writers_serve_again(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    reactions = fleet.query("select * from reactions order by id")

    def restart() -> None:
        fleet.eventually(lambda: "PgSleep" in fleet.psql("select wait_event from pg_stat_activity"))
        subprocess.run(["docker", "restart", f"{fleet.prefix}-db"], check=True, capture_output=True, timeout=60)
        fleet.eventually(lambda: fleet.on("db", "pg_isready", "-h", "127.0.0.1", check=False))

    run = fleet.play_through({"] Quiesce": lambda: fleet.psql(SLOW), "] Migrate down": restart}, ROLLBACK, **LOSSY)
    fleet.psql(QUICK)

    assert_one_release_serves(fleet, "v1.2.0", run, "failed", **BACK)
    assert fleet.query("select * from reactions order by id") == reactions
    assert not any(fleet.rows().values())

    again = fleet.play(ROLLBACK, **LOSSY)

    assert_one_release_serves(fleet, "v1.1.0", again, "reached", **DOWN)
