"""Whole rollbacks, end to end; every statement is proved from outside."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from fleet import CHECKOUT, DOWN_IN_V120
from test_refusals import LOCK

LEDGER = "/var/lib/connectin-rollback/ledger.jsonl"
CONSENT = {"release": "v1.1.0", "rollback_confirm_data_loss": "v1.1.0"}


def assert_serves(fleet, release: str) -> None:
    """Every host runs the release's very images, is healthy, and serves its page with all assets."""
    for host, address in fleet.hosts.items():
        for service in ("api", "web"):
            assert fleet.running_digest(host, service) == fleet.published_digest(service, release), (host, service)
        status, body = fleet.health(host)
        assert (status, body.get("database"), body.get("version")) == (200, "connected", release), (host, body)
        status, page = fleet.get(f"http://{address}:3111/")
        assert status == 200
        assets = set(re.findall(r'(?:src|href)="(/_next/static/[^"]+)"', page))
        assert assets
        for asset in assets:
            assert fleet.get(f"http://{address}:3111{asset}")[0] == 200, asset
        assert fleet.get(f"http://{address}:3111/_next/static/{release}/_buildManifest.js")[0] == 200
        assert fleet.head(host) == release


def test_the_whole_stack_goes_back_from_a_failing_release_and_a_second_run_changes_nothing(fleet, at):
    at("v1.2.0")
    assert all(fleet.health(host)[0] == 503 for host in fleet.hosts)
    fleet.react(3)

    run = fleet.play("rollback_full.yml", **CONSENT)

    assert run.rc == 0, run.text
    assert_serves(fleet, "v1.1.0")
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_1_0")
    assert {name: gone for name, gone in fleet.rows().items() if gone} == dict.fromkeys(DOWN_IN_V120, True)
    record = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/runs/*/record.json"))
    assert record["outcome"]["result"] == "reached"
    assert any("pass" in line.lower() or "ok" in line.lower() for line in record["smoke"]), record["smoke"]
    assert "Rollback to v1.1.0: done" in fleet.shell("app1", "cat /var/lib/connectin-rollback/runs/*/report.md")
    for host in fleet.hosts:
        assert "v1.2.0" in fleet.shell(
            host, "ls /var/lib/connectin-rollback/runs/*/evidence; cat /var/lib/connectin-rollback/ledger.jsonl"
        )
        entries = [json.loads(line) for line in fleet.shell(host, f"cat {LEDGER}").splitlines()]
        arrived = next(entry for entry in reversed(entries) if entry["kind"] == "release")
        assert arrived["release"] == "v1.1.0"
        assert arrived["services"]["api"]["digest"] == fleet.published_digest("api", "v1.1.0")
    assert "not known" not in json.dumps(record)
    assert len(run.text.splitlines()) < 60, "what the operator sees is short"

    again = fleet.play("rollback_full.yml", release="v1.1.0")

    assert again.rc == 0, again.text
    assert again.changed() == 0


def test_a_proof_that_could_not_be_made_is_no_proof(fleet, at):
    at("v1.1.0")
    run = fleet.play("rollback_full.yml", release="v1.1.0", rollback_api_health_expression="database ==")
    assert run.rc != 0
    assert re.search(r"app1: Verify: .*expression", run.text), run.text
    assert "Rolled back" not in run.text


def test_previous_is_the_newest_release_marked_good(fleet, at):
    at("v1.2.0")
    run = fleet.play("rollback_full.yml", release="previous", rollback_confirm_data_loss="v1.1.0")
    assert run.rc == 0, run.text
    assert_serves(fleet, "v1.1.0")


def test_an_additive_migration_is_kept_and_the_writers_are_never_stopped(fleet, at):
    at("v1.1.0")
    started = {host: fleet.rows() for host in fleet.hosts}
    run = fleet.play("rollback_full.yml", release="v1.0.0")
    assert run.rc == 0, run.text
    assert ".env is not what it was" not in run.text, "the pin of an image is no difference"
    assert_serves(fleet, "v1.0.0")
    assert fleet.rows() == started["app1"], "no row was touched"
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_1_0")
    record = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/runs/*/record.json"))
    assert record["plan"]["online"] is True

    again = fleet.play("rollback_full.yml", release="v1.0.0")

    assert (again.rc, again.changed()) == (0, 0), again.text
    # What was kept can still go down, although no checkout has its script any more.
    down = fleet.play(
        "rollback_full.yml", release="v1.0.0", rollback_migrations="down", rollback_confirm_data_loss="v1.0.0"
    )
    assert down.rc == 0, down.text
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_0_0")


@pytest.mark.long
def test_down_takes_an_additive_migration_down_too_with_the_image_s_script_where_the_checkout_moved(fleet, at):
    at("v1.1.0")
    for host in fleet.hosts:
        fleet.shell(host, "git -C /srv/connectin checkout --quiet v1.0.0")
    down = {"release": "v1.0.0", "rollback_migrations": "down", "rollback_confirm_data_loss": "v1.0.0"}
    refused = fleet.play("rollback_plan.yml", **down)
    assert refused.rc != 0 and "[down_missing]" in refused.text
    run = fleet.play("rollback_full.yml", **down, rollback_migrations_image_path="/app/prisma/migrations")
    assert run.rc == 0, run.text
    assert fleet.shell("app1", "docker ps -aq --filter label=connectin.rollback.reading") == ""
    assert_serves(fleet, "v1.0.0")
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_0_0")


@pytest.mark.long
def test_keep_leaves_the_newer_schema_and_says_what_the_old_release_makes_of_it(fleet, at):
    at("v1.2.0")
    before = fleet.catalog()
    run = fleet.play(
        "rollback_full.yml",
        release="v1.1.0",
        rollback_migrations="keep",
        rollback_start_deadline=20,
        rollback_health_deadline=5,
    )
    assert fleet.catalog() == before
    assert run.rc != 0, "v1.1.0 cannot run on the renamed column, and that is said"
    assert "NOT rolled back to v1.1.0" in run.text
    assert "next:" in run.text


def test_a_crash_looping_release_without_a_migration_goes_back_online(fleet, at):
    at("v1.3.0")
    run = fleet.play("rollback_full.yml", **CONSENT)
    assert run.rc == 0, run.text
    assert_serves(fleet, "v1.1.0")


def test_the_application_alone_goes_back_and_its_logs_are_watched(fleet, at):
    at("v1.1.0")
    run = fleet.play("rollback_application.yml", release="v1.0.0", rollback_watch_seconds=4, rollback_watch_interval=2)
    assert run.rc == 0, run.text
    for host in fleet.hosts:
        assert fleet.running_digest(host, "api") == fleet.published_digest("api", "v1.0.0")
        assert fleet.running_digest(host, "web") == fleet.published_digest("web", "v1.1.0")
        assert fleet.health(host)[1]["version"] == "v1.0.0"
        assert f"watching {host}: 4 of 4 s" in run.text
    again = fleet.play("rollback_application.yml", release="v1.0.0")
    assert (again.rc, again.changed()) == (0, 0), again.text
    # The pin in the compose file is ours: the next whole rollback may discard it.
    whole = fleet.play("rollback_full.yml", release="v1.0.0")
    assert whole.rc == 0, whole.text
    assert_serves(fleet, "v1.0.0")


def test_the_database_alone_goes_down_once_the_application_runs_the_target(fleet, at):
    at("v1.1.0")
    assert fleet.play("rollback_application.yml", release="v1.0.0", rollback_watch_seconds=0).rc == 0
    run = fleet.play(
        "rollback_database.yml", release="v1.0.0", rollback_migrations="down", rollback_confirm_data_loss="v1.0.0"
    )
    assert run.rc == 0, run.text
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_0_0")
    assert fleet.health()[0] == 200


def test_the_frontend_alone_goes_back(fleet, at):
    at("v1.1.0")
    run = fleet.play("rollback_frontend.yml", release="v1.0.0")
    assert run.rc == 0, run.text
    for host, address in fleet.hosts.items():
        assert fleet.running_digest(host, "web") == fleet.published_digest("web", "v1.0.0")
        assert fleet.running_digest(host, "api") == fleet.published_digest("api", "v1.1.0")
        assert fleet.get(f"http://{address}:3111/_next/static/v1.0.0/_buildManifest.js")[0] == 200
    frozen = fleet.play("deploy_freeze.yml")
    assert frozen.rc != 0 and "v1.0.0" in frozen.text, "the next deploy would bring the frontend back that was left"


def test_the_frontend_alone_goes_back_to_a_kept_build_without_images(fleet, at):
    at("v1.1.0", web="artifact")
    images = {host: fleet.running_digest(host, "web") for host in fleet.hosts}
    run = fleet.play("rollback_frontend.yml", release="v1.0.0", rollback_frontend_source="artifact")
    assert run.rc == 0, run.text
    for host, address in fleet.hosts.items():
        assert fleet.get(f"http://{address}:3111/_next/static/v1.0.0/_buildManifest.js")[0] == 200
        assert fleet.get(f"http://{address}:3111/_next/static/v1.1.0/_buildManifest.js")[0] == 404
        assert fleet.running_digest(host, "web") == images[host]
        assert fleet.running_digest(host, "api") == fleet.published_digest("api", "v1.1.0")
    again = fleet.play("rollback_frontend.yml", release="v1.0.0", rollback_frontend_source="artifact")
    assert (again.rc, again.changed()) == (0, 0), again.text
    refused = fleet.play("rollback_frontend.yml", release="v0.9.0", rollback_frontend_source="artifact")
    assert "[artifact_missing]" in refused.text


@pytest.mark.long
def test_images_that_no_registry_has_are_built_on_the_hosts_while_the_release_before_serves(fleet, at):
    at("v1.1.0")
    for host in fleet.hosts:
        fleet.shell(host, "docker image rm -f $(docker images -q '*/connectin/*:v1.0.0')")
    build = {"release": "v1.0.0", "rollback_image_source": "build"}

    def sources_are_laid_out() -> bool:
        return all("rollback" in fleet.shell(host, "git -C /srv/connectin worktree list") for host in fleet.hosts)

    # Killed while it builds, it is taken up again although the sources lie there.
    fleet.kill_when("] Prepare", "rollback_full.yml", once=sources_are_laid_out, **build)
    build["rollback_resume"] = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/lock.json"))["run_id"]
    run = fleet.play("rollback_full.yml", **build)
    assert run.rc == 0, run.text
    del build["rollback_resume"]
    for host, address in fleet.hosts.items():
        assert fleet.health(host)[1]["version"] == "v1.0.0"
        assert fleet.get(f"http://{address}:3111/_next/static/v1.0.0/_buildManifest.js")[0] == 200
        assert fleet.head(host) == "v1.0.0"
        assert "connectin-rollback" not in fleet.shell(host, "git -C /srv/connectin worktree list")
    again = fleet.play("rollback_full.yml", **build)
    assert (again.rc, again.changed()) == (0, 0), again.text


@pytest.mark.long
def test_the_next_deploy_applies_again_what_went_down(fleet, at):
    at("v1.2.0")
    assert fleet.play("rollback_full.yml", **CONSENT).rc == 0
    fleet.sandbox("deploy", "v1.2.0")
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_2_0")


def restore_command(fleet, line: str, backup: str, *more: str):
    """Run the command of docs/recovery.md that begins like this, for one backup."""
    page = (CHECKOUT / "docs/recovery.md").read_text()
    (command,) = re.findall(rf"^({re.escape(line)})(?: +#.*)?$", page, re.MULTILINE)
    return fleet.run([*command.replace("<id>", backup).split(), *more])


RESTORE_LOST = "ansible-playbook restore_backup.yml -e rollback_backup_id=<id>"
RESTORE_ALL = f"{RESTORE_LOST} -e rollback_backup_restore=all"


@pytest.mark.long
def test_what_a_rollback_loses_is_dumped_twice_and_comes_back_by_the_documented_command(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    reactions = fleet.query("select * from reactions order by id")
    posts = fleet.query("select id, title from posts order by id")

    run = fleet.play("rollback_full.yml", **CONSENT)

    assert run.rc == 0, run.text
    record = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/runs/*/record.json"))
    full, lost = record["outcome"]["backups"]
    assert (full["kind"], lost["kind"]) == ("full", "lost")
    for dump in (full, lost):
        assert dump["host"] == "app1"
        assert fleet.shell("app1", f"sha256sum {dump['file']}").split()[0] == dump["sha256"]
        assert dump["sha256"] in fleet.shell("app1", "cat /var/lib/connectin-rollback/runs/*/report.md")
        assert fleet.shell("app1", f"stat -c %a {dump['file']}").strip() == "600"
    tables = fleet.shell("app1", f"pg_restore --list {lost['file']} | grep -o 'TABLE DATA .*'").split()
    assert tables[:4] == ["TABLE", "DATA", "public", "reactions"] and "posts" not in tables
    assert f"restore_backup.yml -e rollback_backup_id={full['id']}" in run.text
    listed = fleet.play("restore_backup.yml")
    assert (listed.rc, listed.changed()) == (0, 0), listed.text
    assert full["id"] in listed.text and "v1.2.0 -> v1.1.0" in listed.text

    early = restore_command(fleet, RESTORE_LOST, full["id"])
    assert early.rc != 0 and "deploy that" in early.text, early.text
    fleet.sandbox("deploy", "v1.2.0")
    assert fleet.query("select * from reactions") == []
    predicted = restore_command(fleet, RESTORE_LOST, full["id"], "--check")
    assert predicted.rc == 0 and f"public.reactions: {len(reactions)}" in predicted.text, predicted.text
    assert fleet.query("select * from reactions") == []
    lock = "/var/lib/connectin-rollback/lock.json"
    fleet.shell("app2", f"echo '{LOCK}' > {lock}")
    held = restore_command(fleet, RESTORE_LOST, full["id"])
    fleet.shell("app2", f"rm {lock}")
    assert held.rc != 0 and "ann" in held.text and "app2" in held.text, held.text
    assert fleet.query("select * from reactions") == []
    # A rollback that was interrupted keeps its lock, which says where it goes.
    taken = restore_command(fleet, RESTORE_LOST, full["id"], "-e", f"rollback_resume={record['outcome']['run_id']}")
    assert taken.rc != 0 and "is no restore" in taken.text, taken.text
    put_back = restore_command(fleet, RESTORE_LOST, full["id"])
    assert put_back.rc == 0, put_back.text
    assert fleet.query("select * from reactions order by id") == reactions
    fleet.react(1)
    assert fleet.query("select count(*) from reactions") == [(len(reactions) + 1,)]

    connected = restore_command(fleet, RESTORE_ALL, full["id"], "-e", f"rollback_confirm_restore={full['id']}")
    assert connected.rc != 0, connected.text
    (stop,) = re.findall(r"Stop the writers: (ansible \S+ -b -a '[^']+')", connected.text)
    assert fleet.run(shlex.split(stop)).rc == 0
    refused = restore_command(fleet, RESTORE_ALL, full["id"])
    assert refused.rc != 0 and f"rollback_confirm_restore={full['id']}" in refused.text, refused.text
    assert fleet.query("select count(*) from reactions") == [(len(reactions) + 1,)]
    whole = restore_command(fleet, RESTORE_ALL, full["id"], "-e", f"rollback_confirm_restore={full['id']}")
    assert whole.rc == 0, whole.text
    assert fleet.query("select * from reactions order by id") == reactions
    assert fleet.query("select id, title from posts order by id") == posts
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_2_0")
    # What was taken back is kept as well, and comes back the same way.
    (kept,) = set(re.findall(r"which the backup (\S+) keeps", whole.text))
    undone = restore_command(fleet, RESTORE_ALL, kept, "-e", f"rollback_confirm_restore={kept}")
    assert undone.rc == 0, undone.text
    assert fleet.query("select count(*) from reactions") == [(len(reactions) + 1,)]
    for host in fleet.hosts:
        assert "lock.json" not in fleet.shell(host, "ls /var/lib/connectin-rollback")


@pytest.mark.long
def test_the_database_does_not_go_down_when_what_gets_lost_cannot_be_dumped(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    reactions = fleet.query("select * from reactions order by id")
    program = "/usr/lib/postgresql/17/bin/pg_dump"
    fails = (
        "#!/bin/sh\n"
        'case "$*" in *--table=*) echo "pg_dump: error: no luck" >&2; exit 1;; esac\n'
        f'exec {program}.real "$@"'
    )
    try:
        fleet.shell("app1", f"mv {program} {program}.real; printf '%s\\n' '{fails}' >{program}; chmod 755 {program}")
        run = fleet.play("rollback_full.yml", **CONSENT)
    finally:
        fleet.shell("app1", f"mv {program}.real {program}")
    assert run.rc != 0
    assert re.search(r"app1: Quiesce: .*no luck", run.text), run.text
    assert fleet.query("select * from reactions order by id") == reactions
    assert not any(fleet.rows().values())
    assert all(fleet.health(host)[1].get("version") == "v1.2.0" for host in fleet.hosts), "it serves again"
    again = fleet.play("rollback_full.yml", **CONSENT)
    assert again.rc == 0, again.text
    assert_serves(fleet, "v1.1.0")


# What happens to every change of a table: it takes its time, or is refused.
ON_ALTER = """
CREATE OR REPLACE FUNCTION public.on_alter() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN {does}; END';
"""
WHEN_ALTERED = """
CREATE EVENT TRIGGER on_alter ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.on_alter();
"""


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True], ids=["the first try fails", "the first try is killed"])
def test_on_a_database_that_is_halfway_down_no_try_starts_the_writers_of_the_release_before(fleet, at, killed):
    at("v1.2.0")
    halfway, each = ["20250304090000_create_reactions"], {**CONSENT, "rollback_transaction": "each"}

    def gone() -> list[str]:
        return [name for name, back in fleet.rows().items() if back]

    fleet.psql(
        ON_ALTER.format(does="PERFORM pg_sleep(60)" if killed else "RAISE EXCEPTION ''not today''") + WHEN_ALTERED
    )
    # The first one commits the newest migration, and neither gets the other one down.
    if killed:
        fleet.kill_when("] Migrate down", "rollback_full.yml", once=lambda: gone() == halfway, **each)
        fleet.psql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
        fleet.psql(ON_ALTER.format(does="RAISE EXCEPTION ''not today''"))
        each["rollback_resume"] = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/lock.json"))["run_id"]
    tries = [fleet.play("rollback_full.yml", **each) for _ in range(1 if killed else 2)]
    for run in tries:
        assert run.rc == 4 and "UNRESOLVED" in run.text, run.text
    assert gone() == halfway
    for host in fleet.hosts:
        assert fleet.shell(host, "docker ps -aq --filter label=com.docker.compose.service=api") == "", host

    fleet.psql("DROP EVENT TRIGGER on_alter; DROP FUNCTION public.on_alter();")
    each.pop("rollback_resume", None)
    run = fleet.play("rollback_full.yml", **each)
    assert run.rc == 0, run.text
    assert_serves(fleet, "v1.1.0")
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_1_0")


def test_a_host_that_is_lost_while_it_dumps_ends_the_run_at_once_and_nothing_was_changed(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    program = "/usr/lib/postgresql/17/bin/pg_dump"
    hangs = f'#!/bin/sh\ncase "$*" in *--version*) exec {program}.real "$@";; esac\nsleep 600'
    fleet.shell("app1", f"mv {program} {program}.real; printf '%s\n' '{hangs}' >{program}; chmod 755 {program}")
    try:
        ended = fleet.play_until(
            "dumping the whole database",
            lambda: fleet.run(["docker", "stop", "--time", "1", f"{fleet.prefix}-app1"]),
            "rollback_full.yml",
            **CONSENT,
        )
    finally:
        fleet.run(["docker", "start", f"{fleet.prefix}-app1"])
        fleet.shell("app1", f"mv {program}.real {program}")
    assert ended.rc != 0
    assert "app1: Prepare: " in ended.text and "lost while the database was dumped" in ended.text, ended.text
    assert not any(fleet.rows().values())
    assert fleet.health("app2")[1].get("version") == "v1.2.0"


@pytest.mark.long
def test_a_host_that_fails_by_its_own_fault_is_held_and_the_next_run_picks_it_up(fleet, at):
    at("v1.2.0")
    # app2's engine refuses to start the target: its port is taken as soon as the old container lets go of it.
    fleet.shell("app2", "docker rm -f connectin-web-1 >/dev/null; (python3 -m http.server 3111 >/dev/null 2>&1 &)")
    try:
        run = fleet.play("rollback_full.yml", rollback_start_deadline=20, rollback_health_deadline=5, **CONSENT)
    finally:
        fleet.shell("app2", "pkill -f '[h]ttp.server' || true")
    assert run.rc == 2
    assert re.search(r"HELD: v1\.1\.0 serves on .*Out of rotation: app2\.", run.text), run.text
    assert re.search(r"app2: Switch: ", run.text), run.text
    assert "next:" in run.text
    assert fleet.health("app1")[1].get("version") == "v1.1.0"
    again = fleet.play("rollback_full.yml", release="v1.1.0")
    assert again.rc == 0, again.text
    assert_serves(fleet, "v1.1.0")


def test_a_dead_host_is_left_out_once_it_is_out_of_rotation(fleet, at):
    at("v1.1.0")
    stats = f"http://{fleet.state['load_balancer']['host']}:{fleet.state['load_balancer']['stats']}/stats;csv"
    try:
        fleet.run(["docker", "stop", "--time", "1", f"{fleet.prefix}-app2"])
        refused = fleet.play(
            "rollback_full.yml", release="v1.0.0", rollback_exclude="app2", rollback_rotation_url=stats
        )
        assert refused.rc != 0
        assert "exclude_serving" in refused.text
        run = fleet.play("rollback_full.yml", release="v1.0.0", rollback_exclude="app2", rollback_drained="app2")
        assert run.rc == 0, run.text
        assert fleet.running_digest("app1", "api") == fleet.published_digest("api", "v1.0.0")
    finally:
        fleet.run(["docker", "start", f"{fleet.prefix}-app2"])


def test_a_database_that_is_down_stops_nothing_when_the_ledger_says_it_is_not_touched(fleet, at):
    at("v1.3.0")
    fleet.play("record_release.yml", rollback_verdict="bad")
    at_same_schema = fleet.play("rollback_plan.yml", release="v1.2.0")
    assert at_same_schema.rc == 0, at_same_schema.text
    try:
        fleet.run(["docker", "pause", f"{fleet.prefix}-db"])
        run = fleet.play("rollback_plan.yml", release="v1.2.0")
        assert run.rc == 0, run.text
        assert "the database cannot be read" in run.text
    finally:
        fleet.run(["docker", "unpause", f"{fleet.prefix}-db"])
