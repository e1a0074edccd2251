"""How one host's containers are replaced: no request lost behind a proxy, and the assets of both releases served."""

from __future__ import annotations

import json

import pytest
from fleet import differences
from load import Browser, Load

START_FIRST = {"rollback_switch": "start_first", "rollback_switch_haproxy": "127.0.0.1:9999"}
# Not what the test is about, and it takes its time.
NO_WATCH = {"rollback_watch_seconds": 0}


def containers(fleet, service: str, host: str = "app1") -> list[str]:
    """The images of a service's containers on a host, whatever their state."""
    shown = fleet.shell(
        host,
        f"docker ps --all --filter label=com.docker.compose.service={service} "
        "--filter label=com.docker.compose.oneoff=False --format '{{.Image}} {{.State}}'",
    )
    return sorted(line.rpartition(":")[2] for line in shown.splitlines())


def identifier(fleet, service: str, host: str = "app1") -> str:
    return fleet.shell(host, f"docker ps -q --filter label=com.docker.compose.service={service}").strip()


def proxy(fleet, command: str, host: str = "app1") -> str:
    """Ask the runtime API of a host's proxy."""
    script = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', 9999), 5); "
        "s.sendall((sys.argv[1] + chr(10)).encode()); "
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
    )
    return fleet.on(host, "python3", "-c", script, command)


def drained_places(fleet, host: str = "app1") -> list[str]:
    rows = [line.split() for line in proxy(fleet, "show servers state", host).splitlines()]
    return [f"{row[1]}/{row[3]}" for row in rows if len(row) > 6 and row[0].isdigit() and int(row[6]) & 8]


def serving(fleet, backend: str, host: str = "app1") -> int:
    """How many servers of a backend get requests, as the proxy says."""
    rows = [line.split() for line in proxy(fleet, "show servers state", host).splitlines()]
    return len([row for row in rows if len(row) > 6 and row[1] == backend and row[5:7] == ["2", "0"]])


def urls(fleet, host: str = "app1") -> tuple[str, str]:
    return f"http://{fleet.hosts[host]}:5007/", f"http://{fleet.hosts[host]}:3111/"


def beside(fleet, release: str, host: str = "app1") -> None:
    """Leave a web container of another release beside the one that runs, as a run that was killed does."""
    fleet.shell(
        host,
        f"cd /srv/connectin; sed -i 's/^WEB_TAG=.*/WEB_TAG={release}/' .env; "
        "docker compose up --detach --no-recreate --no-deps --scale web=2 web 2>&1",
    )


def test_a_host_behind_a_proxy_goes_back_without_one_lost_request(fleet, at):
    at("v1.1.0", web="proxy")
    api, web = urls(fleet)
    with Load(api, web, rate=50) as load:
        run = fleet.play("rollback_full.yml", release="v1.0.0", **START_FIRST, **NO_WATCH)
    assert run.rc == 0, run.text
    assert load.result.failed == 0 and load.result.total > 300, "\n".join(load.result.lines())
    assert "past the proxy" not in run.text
    for host in fleet.hosts:
        assert containers(fleet, "api", host) == containers(fleet, "web", host) == ["v1.0.0 running"]
        assert drained_places(fleet, host) == []
    written = fleet.query("select title, count(*) from posts where body = 'written under load' group by title")
    assert dict(written) == dict.fromkeys(load.result.written, 1), "a write was lost, or made twice"


def test_a_container_keeps_the_name_that_runbooks_know(fleet, at):
    at("v1.1.0", web="proxy")
    assert fleet.play("rollback_frontend.yml", release="v1.0.0", **START_FIRST).rc == 0
    assert "connectin-web-1" in fleet.shell("app1", "docker ps --format '{{.Names}}'").split()
    # What Compose does next finds nothing to change.
    before = identifier(fleet, "web")
    fleet.shell("app1", "cd /srv/connectin && docker compose up --detach --no-deps web 2>&1")
    assert identifier(fleet, "web") == before


def test_start_first_is_refused_where_a_service_publishes_a_port(fleet, at):
    at("v1.1.0")
    before = fleet.fingerprint()
    run = fleet.play("rollback_full.yml", release="v1.0.0", **START_FIRST)
    assert run.rc != 0
    assert "[start_first_port]" in run.text and "publishes port 5007" in run.text
    assert "rollback_switch=stop_first" in run.text
    assert differences(before, fleet.fingerprint()) == []


def test_without_a_proxy_a_host_is_without_its_services_at_one_time_and_not_one_after_the_other(fleet, at):
    at("v1.1.0")
    with Load(*urls(fleet), rate=50) as load:
        run = fleet.play("rollback_full.yml", release="v1.0.0", **NO_WATCH)
    assert run.rc == 0, run.text
    api, web = ([answer.at for answer in load.result.of(kind).failures] for kind in ("health", "asset"))
    assert max(min(api), min(web)) < min(max(api), max(web)), "\n".join(load.result.lines())


@pytest.mark.long
def test_of_services_that_are_switched_together_every_one_that_is_sick_is_told_and_its_log_kept(fleet, at):
    at("v1.1.0")
    for host in fleet.hosts:
        fleet.shell(
            host,
            """cd /srv/connectin
            echo 'COMPOSE_FILE=docker-compose.yml:sick.yml' >>.env
            cat >sick.yml <<'YAML'
x-sick: &sick
  healthcheck: {test: ["CMD", "false"], interval: 1s, retries: 1, start_period: 0s}
services: {api: *sick, web: *sick}
YAML""",
        )
    run = fleet.play("rollback_full.yml", release="v1.0.0", rollback_start_deadline=20, **NO_WATCH)
    assert run.rc != 0
    for service in ("api", "web"):
        assert f"container of {service} did not become healthy" in run.text, run.text
        assert fleet.shell("app1", f"ls /var/lib/connectin-rollback/runs/*/evidence/{service}-target.log")


def test_a_target_that_never_gets_healthy_is_removed_and_the_old_container_serves_on(fleet, at):
    at("v1.1.0", web="proxy")
    api, web = urls(fleet)
    for host in fleet.hosts:
        fleet.shell(
            host,
            """cd /srv/connectin
            sed -i 's/^COMPOSE_FILE=.*/&:sick.yml/' .env
            cat >sick.yml <<'YAML'
services:
  web:
    healthcheck:
      test: [CMD, grep, -q, v1.1.0, .next/BUILD_ID]
      interval: 1s
      retries: 2
      start_period: 1s
YAML""",
        )
    before = identifier(fleet, "web")
    with Load(api, web, rate=50) as load:
        run = fleet.play("rollback_frontend.yml", release="v1.0.0", **START_FIRST)
    assert run.rc != 0
    assert "did not become healthy" in run.text
    assert load.result.failed == 0, "\n".join(load.result.lines())
    assert containers(fleet, "web") == ["v1.1.0 running"]
    assert "v1.1.0" in fleet.get(web)[1]
    assert before in identifier(fleet, "web"), "the container that served was replaced"


@pytest.mark.parametrize(
    "drained",
    [
        pytest.param(False, id="before the old one was drained", marks=pytest.mark.long),
        pytest.param(True, id="after it was drained"),
    ],
)
def test_the_next_run_finishes_what_a_killed_one_left(fleet, at, drained):
    at("v1.1.0", web="proxy")
    api, web = urls(fleet)
    for host in fleet.hosts:
        address = fleet.shell(
            host, f"docker inspect -f '{{{{json .NetworkSettings.Networks}}}}' {identifier(fleet, 'web', host)}"
        )
        beside(fleet, "v1.0.0", host)
        if drained:
            old = {network["IPAddress"] for network in json.loads(address).values()}
            for row in (line.split() for line in proxy(fleet, "show servers state", host).splitlines()):
                if len(row) > 6 and row[4] in old:
                    proxy(fleet, f"set server {row[1]}/{row[3]} state drain", host)
    assert containers(fleet, "web") == ["v1.0.0 running", "v1.1.0 running"]
    fleet.eventually(lambda: fleet.get(web)[0] == 200)
    with Load(api, web, rate=50) as load:
        run = fleet.play("rollback_frontend.yml", release="v1.0.0", **START_FIRST)
    assert run.rc == 0, run.text
    assert load.result.failed == 0, "\n".join(load.result.lines())
    for host in fleet.hosts:
        assert containers(fleet, "web", host) == ["v1.0.0 running"]
        assert drained_places(fleet, host) == []
    again = fleet.play("rollback_frontend.yml", release="v1.0.0", **START_FIRST)
    assert (again.rc, again.changed()) == (0, 0), again.text


@pytest.mark.long
def test_a_controller_that_is_killed_in_the_middle_is_followed_at_once_by_a_run_that_finishes(fleet, at):
    at("v1.1.0", web="proxy")
    rollback = {"release": "v1.0.0", **START_FIRST, **NO_WATCH}

    def side_by_side() -> bool:
        return any(len(containers(fleet, service, host)) == 2 for service in ("api", "web") for host in fleet.hosts)

    with Load(*urls(fleet), rate=50) as load:
        fleet.kill_when("] Switch", "rollback_full.yml", once=side_by_side, **rollback)
        # What it had begun goes on by itself on the hosts: nobody waits for that.
        run_id = json.loads(fleet.shell("app1", "cat /var/lib/connectin-rollback/lock.json"))["run_id"]
        run = fleet.play("rollback_full.yml", rollback_resume=run_id, **rollback)
    assert run.rc == 0, run.text
    assert load.result.failed == 0 and load.result.total > 300, "\n".join(load.result.lines())
    there = dict(fleet.query("select title, count(*) from posts where body = 'written under load' group by title"))
    assert {title: there.get(title) for title in load.result.written} == dict.fromkeys(load.result.written, 1)
    for host in fleet.hosts:
        assert containers(fleet, "api", host) == containers(fleet, "web", host) == ["v1.0.0 running"]
        assert drained_places(fleet, host) == []


@pytest.mark.parametrize("web", [pytest.param("image", marks=pytest.mark.long), "proxy"])
def test_a_browser_that_holds_the_newer_page_finds_its_assets_after_the_rollback(fleet, at, web):
    at("v1.1.0", web=web)
    address = urls(fleet)[1]
    held = Browser(address).load()
    run = fleet.play("rollback_frontend.yml", release="v1.0.0", **(START_FIRST if web == "proxy" else {}))
    assert run.rc == 0, run.text
    fresh = Browser(address).load()
    assert held.assets.keys() - fresh.assets.keys(), "the releases have the same assets, so this shows nothing"
    assert held.broken_assets() == fresh.broken_assets() == []
    # A restarted engine or a crash takes nothing away.
    fleet.shell("app1", f"docker restart {identifier(fleet, 'web')}")
    fleet.eventually(lambda: fleet.get(address)[0] == 200)
    assert held.broken_assets() == fresh.broken_assets() == []


@pytest.mark.long
def test_without_an_overlap_the_newer_page_loses_its_assets(fleet, at):
    at("v1.1.0")
    address = urls(fleet)[1]
    held = Browser(address).load()
    assert fleet.play("rollback_frontend.yml", release="v1.0.0", rollback_asset_overlap=0).rc == 0
    assert held.broken_assets()


@pytest.mark.long
def test_a_rollback_soon_after_another_carries_the_assets_of_all_three_releases(fleet, at):
    at("v1.1.0")
    address = urls(fleet)[1]
    held = Browser(address).load()
    for release in ("v1.0.0", "v1.1.0", "v1.0.0"):
        assert fleet.play("rollback_frontend.yml", release=release).rc == 0
        assert held.broken_assets() == []


@pytest.mark.long
def test_while_both_releases_serve_the_proxy_asks_the_other_one_for_what_one_lacks(fleet, at):
    at("v1.1.0", web="proxy")
    address = urls(fleet)[1]
    older = Browser(address).load()
    beside(fleet, "v1.0.0")
    fleet.eventually(lambda: 'data-release="v1.0.0"' in fleet.get(address)[1])
    fleet.eventually(lambda: serving(fleet, "assets") == 2)
    newer = fleet.eventually(lambda: page_of(address, "v1.0.0"))
    assert older.assets.keys() != newer.assets.keys()
    assert older.broken_assets(10) == newer.broken_assets(10) == []


def page_of(address: str, release: str) -> Browser | None:
    """The page of one release with its assets, None while the other one answers."""
    found = Browser(address).load()
    return found if found.release == release else None
