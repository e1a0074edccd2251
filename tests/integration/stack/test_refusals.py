"""Bad input and broken hosts: every reason is named with its host and next command, and nothing is changed."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field

import pytest
from fleet import CHECKOUT, Fleet, differences

PROJECT = "/srv/connectin"
BACKUPS = "/var/lib/connectin-rollback/backups"
DOWN = f"{PROJECT}/apps/api/prisma/migrations/20250304090000_create_reactions/down.sql"


@dataclass(frozen=True)
class Case:
    """One thing that is wrong: how to break it on app2 (or the fleet), what must be said, how to mend it."""

    name: str
    codes: tuple[str, ...]
    host: str = "app2"
    broken: str = ""
    mended: str = ""
    extra: dict = field(default_factory=dict)
    says: str = ""
    on: str = "app2"


def moved(path: str) -> tuple[str, str]:
    return f"mv {path} {path}.away", f"mv {path}.away {path}"


def case(name: str, *codes: str, **rest) -> Case:
    return Case(name, codes, **rest)


LOCK = (
    '{"v":1,"run_id":"20260101T000000Z-abcd","owner":"ann","reason":"rollback to v1.0.0",'
    '"since":"2026-01-01T00:00:00Z","expires":"2099-01-01T00:00:00Z"}'
)

CASES = [
    case("an unknown tag", "tag_unknown", extra={"release": "v9.9.9"}),
    case("a malformed tag", "tag_malformed", host="fleet", extra={"release": "v1;reboot"}),
    case(
        "a tag that one host lacks",
        "tag_unknown",
        on="app1",
        broken=f"git -C {PROJECT} tag v1.1.1 v1.1.0",
        mended=f"git -C {PROJECT} tag -d v1.1.1",
        extra={"release": "v1.1.1"},
        says="v1.1.1",
    ),
    case(
        "an image that the registry lacks",
        "image_missing",
        host="app2",
        broken="docker image rm -f $(docker images -q '*/connectin/api:v1.0.0') || true; "
        f"git -C {PROJECT} tag v0.9.0 v1.0.0",
        mended=f"git -C {PROJECT} tag -d v0.9.0",
        extra={"release": "v0.9.0"},
    ),
    case(
        "an engine that is down",
        "engine_down",
        broken="docker_pid=$(cat /var/run/docker.pid); kill $docker_pid; "
        "while kill -0 $docker_pid 2>/dev/null; do sleep 0.1; done",
    ),
    case(
        "no compose file",
        "compose_missing",
        broken=moved(f"{PROJECT}/docker-compose.yml")[0],
        mended=moved(f"{PROJECT}/docker-compose.yml")[1],
    ),
    case(
        "a compose file that does not render",
        "compose_invalid",
        broken=f"cp -p {PROJECT}/docker-compose.yml /root/c; echo '  broken: [' >> {PROJECT}/docker-compose.yml",
        mended=f"cp -p /root/c {PROJECT}/docker-compose.yml",
    ),
    case("a service that the compose file lacks", "service_missing", extra={"rollback_web_service": "shop"}),
    case(
        "a database that cannot be reached",
        "database_unreachable",
        host="app1",
        extra={"rollback_database_url": "postgresql://connectin:nothing@127.0.0.1:1/connectin"},
    ),
    case("a missing down.sql", "down_missing", host="app1", on="app1", broken=moved(DOWN)[0], mended=moved(DOWN)[1]),
    case(
        "an empty down.sql",
        "down_empty",
        host="app1",
        on="app1",
        broken=f"cp -p {DOWN} /root/d; : > {DOWN}",
        mended=f"cp -p /root/d {DOWN}",
    ),
    case(
        "a down.sql that is only comments",
        "down_comment_only",
        host="app1",
        on="app1",
        broken=f"cp -p {DOWN} /root/d; echo '-- nothing /* yet' > {DOWN}; echo '/* x */' >> {DOWN}",
        mended=f"cp -p /root/d {DOWN}",
    ),
    case(
        "data loss without consent",
        "data_loss",
        host="database",
        extra={"rollback_confirm_data_loss": ""},
        says="-e rollback_confirm_data_loss=v1.1.0",
    ),
    case(
        "data loss with consent for another release",
        "data_loss",
        host="database",
        extra={"rollback_confirm_data_loss": "v1.0.0"},
        says="'v1.0.0'",
    ),
    case(
        "a disk too full for the pull",
        "disk_full",
        host="app1",
        on="app1",
        broken="docker image rm -f $(docker images -q '*/connectin/web:v1.0.0')",
        extra={"release": "v1.0.0", "rollback_confirm_data_loss": "v1.0.0", "rollback_min_free_mb": 99999999},
    ),
    case(
        "a host without pg_dump for the backup",
        "backup_client_missing",
        host="app1",
        on="app1",
        broken=moved("/usr/lib/postgresql/17/bin/pg_dump")[0],
        mended=moved("/usr/lib/postgresql/17/bin/pg_dump")[1],
        says="apt-get install postgresql-client-17",
    ),
    case(
        "a disk too full for the backup",
        "backup_disk_full",
        host="app1",
        on="app1",
        broken=f"mkdir {BACKUPS}; mount -t tmpfs -o size=64k tmpfs {BACKUPS}",
        mended=f"umount {BACKUPS}; rmdir {BACKUPS}",
        says="rollback_backup_dir",
    ),
    case(
        "a Python library that is missing",
        "library_missing",
        broken="mv /usr/lib/python3/dist-packages/yaml /root/yaml",
        mended="mv /root/yaml /usr/lib/python3/dist-packages/yaml",
        says="python3-yaml",
    ),
    case(
        "no right to become root",
        "become_denied",
        broken="mv /etc/sudoers.d/deploy /root/sudoers",
        mended="mv /root/sudoers /etc/sudoers.d/deploy",
    ),
    case(
        "a user outside the docker group",
        "docker_permission",
        broken="gpasswd --delete deploy docker",
        mended="gpasswd --add deploy docker",
        # A connection that is kept open was logged in with the groups from before.
        extra={"ansible_become": False, "ansible_ssh_args": "-o ControlMaster=no"},
    ),
    case(
        "a checkout that belongs to somebody else",
        "git_safe_directory",
        broken=f"git config --system --unset safe.directory '^{PROJECT}$'; chown -R nobody {PROJECT}",
        mended=f"git config --system --add safe.directory {PROJECT}; chown -R deploy:deploy {PROJECT}",
    ),
    case(
        "a registry that wants credentials",
        "registry_denied",
        broken="mv /root/.docker/config.json /root/config; "
        "docker image rm -f $(docker images -q '*/connectin/web:v1.0.0')",
        mended="mv /root/config /root/.docker/config.json",
        extra={"release": "v1.0.0", "rollback_confirm_data_loss": "v1.0.0"},
        says="docker login",
    ),
    case(
        "a git remote that wants credentials",
        "git_denied",
        broken=f"git -C {PROJECT} tag -d v1.1.0; mv /root/.ssh /root/ssh",
        mended="mv /root/ssh /root/.ssh",
    ),
    case(
        "a checkout with local changes",
        "local_changes",
        broken=f"echo '// mine' >> {PROJECT}/apps/api/src/server.js",
        mended=f"git -C {PROJECT} checkout -q -- apps/api/src/server.js",
        says="apps/api/src/server.js",
    ),
    case(
        "another rollback running",
        "lock_held",
        broken=f"echo '{LOCK}' > /var/lib/connectin-rollback/lock.json",
        mended="rm /var/lib/connectin-rollback/lock.json",
        says="ann",
    ),
]


# Each case is in one run. What does not hide each other is broken together, since every reason has to come at once.
TOGETHER = [
    ("an unknown tag",),
    ("a malformed tag",),
    ("a tag that one host lacks",),
    ("an image that the registry lacks",),
    # Alone: of a fleet with an engine that is down only the files can be compared.
    ("an engine that is down",),
    ("no compose file", "data loss without consent"),
    ("a compose file that does not render", "data loss with consent for another release"),
    ("a service that the compose file lacks", "a checkout with local changes"),
    ("a database that cannot be reached", "a git remote that wants credentials"),
    ("a missing down.sql", "no right to become root"),
    ("an empty down.sql", "a Python library that is missing"),
    ("a down.sql that is only comments", "a checkout that belongs to somebody else"),
    ("a disk too full for the pull", "a registry that wants credentials"),
    ("a host without pg_dump for the backup", "a disk too full for the backup"),
    ("a user outside the docker group",),
    ("another rollback running",),
]


def test_every_case_is_in_one_run():
    assert sorted(name for names in TOGETHER for name in names) == sorted(one.name for one in CASES)


@pytest.fixture(scope="module")
def failing(fleet, ledger):
    """v1.2.0 as it was deployed, with rows that going back would lose."""
    fleet.sandbox("restore", "v1.2.0")
    for host in fleet.hosts:
        fleet.shell(host, f"rm -rf /var/lib/connectin-rollback; cp -a {ledger} /var/lib/connectin-rollback")
    fleet.react(3)


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize("names", TOGETHER, ids=" and ".join)
def test_it_is_refused_by_name_and_nothing_is_changed(fleet, names):
    wrong = [one for one in CASES if one.name in names]
    extra = {"release": "v1.1.0", "rollback_confirm_data_loss": "v1.1.0"}
    seen = without_engine if any("engine_down" in one.codes for one in wrong) else Fleet.fingerprint
    with contextlib.ExitStack() as broken:
        for one in wrong:
            extra.update(one.extra)
            if one.mended:
                broken.callback(fleet.shell, one.on, one.mended)
            elif one.broken:
                broken.callback(afresh, fleet)
            if one.broken:
                fleet.shell(one.on, one.broken)
        before = seen(fleet)
        run = fleet.play("rollback_full.yml", **extra)
        after = seen(fleet)
    assert run.rc not in (0, 4), run.text
    for one in wrong:
        for code in one.codes:
            assert re.search(rf"{one.host}: .*\[{code}\]\n\s+next: \S", run.text), run.text
        assert one.says in run.text
    assert "Traceback" not in run.text
    assert differences(before, after) == []


def afresh(fleet) -> None:
    """v1.2.0 as it was deployed, with the rows again and the state directory as it is."""
    fleet.sandbox("restore", "v1.2.0", "--keep-state")
    fleet.react(3)


def without_engine(fleet) -> dict[str, str]:
    """Return what can be compared while an engine is down: the files and git of every host."""
    return {
        host: fleet.shell(
            host,
            f"cd {PROJECT}; git --no-optional-locks status --porcelain; git rev-parse HEAD; "
            "find . -type f -not -path './.git/*' | sort",
        )
        for host in fleet.hosts
    }


def test_an_unreachable_host_is_a_reason_like_others_and_all_reasons_come_at_once(fleet, failing):
    try:
        fleet.run(["docker", "stop", "--time", "1", f"{fleet.prefix}-app2"])
        fleet.shell("app1", f"echo '// mine' >> {PROJECT}/apps/api/src/server.js")
        run = fleet.play("rollback_full.yml", release="v1.1.0")
    finally:
        fleet.run(["docker", "start", f"{fleet.prefix}-app2"])
        afresh(fleet)
    assert run.rc != 0
    for host, code in (("app2", "unreachable"), ("app1", "local_changes"), ("database", "data_loss")):
        assert re.search(rf"{host}: .*\[{code}\]", run.text), run.text
    assert "rollback_exclude=app2" in run.text


def test_a_limit_that_cuts_the_fleet_is_refused(fleet, failing):
    before = fleet.fingerprint()
    run = fleet.play("rollback_full.yml", limit="app1", release="v1.1.0", rollback_confirm_data_loss="v1.1.0")
    assert run.rc != 0
    assert re.search(r"fleet: .*app2.*\[limited\]", run.text), run.text
    assert differences(before, fleet.fingerprint()) == []


def test_what_the_inventory_cannot_say_is_refused_for_its_host_and_the_others_are_not_switched(
    fleet, failing, tmp_path, monkeypatch
):
    wrong = {"app1": {"rollback_api_port": "abc"}, "app2": {"rollback_exclude": "app2"}}
    inventory = {"connectin": {"hosts": wrong}}
    (tmp_path / "wrong.json").write_text(json.dumps(inventory))
    monkeypatch.setenv("ANSIBLE_INVENTORY", f"{CHECKOUT}/inventories/sandbox,{tmp_path}/wrong.json")
    before = fleet.fingerprint()
    run = fleet.play("rollback_full.yml", release="v1.1.0", rollback_confirm_data_loss="v1.1.0")
    assert run.rc != 0 and "Prepare" not in run.text
    assert re.search(r"app1: .*\[variables\]\n\s+next: .*ansible-inventory --host app1", run.text), run.text
    assert re.search(r"app2: .*\[exclude_unseen\]\n\s+next: .*-e rollback_exclude=app2", run.text), run.text
    assert differences(before, fleet.fingerprint()) == []


def test_a_text_is_no_list_and_the_refusal_says_what_to_type(fleet, failing):
    before = fleet.fingerprint()
    command = ["ansible-playbook", "rollback_full.yml", "-e", "release=v1.1.0"]
    run = fleet.run([*command, "-e", "rollback_parts=application,frontend"])
    assert run.rc == 2, run.text
    assert """-e '{"rollback_parts": ["application", "frontend"]}'""" in run.text, run.text
    assert all(f"{host}: rollback_parts is a list" in run.text for host in fleet.hosts), run.text
    assert "serves" not in run.text
    assert differences(before, fleet.fingerprint()) == []


@pytest.mark.parametrize("playbook", ["record_release.yml", "restore_backup.yml"])
def test_an_inventory_without_the_fleet_is_refused(fleet, playbook):
    run = fleet.play(playbook, rollback_hosts="nobody")
    assert run.rc != 0 and "no host that matches nobody" in run.text, run.text


def test_a_missing_database_driver_is_named_with_its_package(fleet, failing):
    library = "/usr/lib/python3/dist-packages/psycopg"
    try:
        fleet.shell("app1", f"mv {library} /root/psycopg")
        run = fleet.play("rollback_full.yml", release="v1.1.0", rollback_confirm_data_loss="v1.1.0")
    finally:
        fleet.shell("app1", f"mv /root/psycopg {library}")
    assert run.rc != 0
    assert re.search(r"app1: .*psycopg.*\[library_missing\]\n\s+next: apt-get install python3-psycopg", run.text)
    assert "Prepare" not in run.text


def test_where_no_backup_is_wanted_none_has_to_be_possible_and_the_plan_says_so(fleet, failing):
    away, back = moved("/usr/lib/postgresql/17/bin/pg_dump")
    try:
        fleet.shell("app1", away)
        run = fleet.play(
            # As a string, which `-e rollback_backup=false` is.
            "rollback_plan.yml",
            release="v1.1.0",
            rollback_confirm_data_loss="v1.1.0",
            rollback_backup="false",
        )
    finally:
        fleet.shell("app1", back)
    assert run.rc == 0, run.text
    assert "No backup is made of what gets lost" in run.text


@pytest.mark.parametrize(
    ("backup", "said"),
    [
        ("20260101T000000Z-abcd", "No host has the backup 20260101T000000Z-abcd"),
        ("../../../etc", "No host has the backup ../../../etc"),
    ],
)
def test_a_backup_that_is_not_there_is_refused(fleet, failing, backup, said):
    before = fleet.fingerprint()
    run = fleet.play("restore_backup.yml", rollback_backup_id=backup)
    assert run.rc != 0
    assert said in run.text
    assert "Traceback" not in run.text
    assert differences(before, fleet.fingerprint()) == []


def test_without_a_release_the_candidates_are_listed(fleet, failing):
    run = fleet.play("rollback_full.yml")
    assert run.rc != 0
    assert "release_missing" in run.text
    lines = {line.split()[0]: line for line in run.text.splitlines() if re.match(r"\s+v1\.\d\.0 ", line)}
    assert f"good on {len(fleet.hosts)}" in lines["v1.1.0"]
    assert "20250304090000_create_reactions" in lines["v1.1.0"]
    assert "6 rows" in lines["v1.1.0"]
    assert f"bad on {len(fleet.hosts)}" in lines["v1.2.0"]


@pytest.mark.parametrize(
    ("playbook", "check"),
    [
        ("rollback_plan.yml", False),
        ("rollback_full.yml", True),
        ("rollback_application.yml", True),
        ("rollback_frontend.yml", True),
    ],
)
def test_a_plan_and_check_mode_change_nothing_anywhere(fleet, failing, playbook, check):
    before = fleet.fingerprint()
    extra = {"release": "v1.1.0", "rollback_confirm_data_loss": "v1.1.0"}
    if playbook == "rollback_application.yml":
        extra["rollback_migrations"] = "keep"
    run = fleet.play(playbook, check=check, **extra)
    assert run.rc == 0, run.text
    assert "v1.1.0" in run.text
    assert differences(before, fleet.fingerprint()) == []


def test_the_application_alone_is_refused_across_a_migration_boundary(fleet, failing):
    run = fleet.play("rollback_application.yml", release="v1.1.0", rollback_confirm_data_loss="v1.1.0")
    assert run.rc != 0
    assert re.search(r"\[boundary\]\n\s+next: ansible-playbook rollback_full.yml -e release=v1.1.0", run.text), run.text


def test_the_database_password_is_never_printed_at_any_verbosity(fleet, failing):
    password = fleet.shell("app1", f"sed -n 's#^DATABASE_URL=.*://[^:]*:\\([^@]*\\)@.*#\\1#p' {PROJECT}/.env").strip()
    assert len(password) > 8
    run = fleet.play("rollback_plan.yml", verbosity=4, release="v1.1.0", rollback_confirm_data_loss="v1.1.0")
    assert run.rc == 0
    assert password not in run.text
