"""The promise of every end of every run: exactly one release serves users. Asked of the hosts, the load balancer, the
database and the registry, never of what the run says of itself."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

from fleet import Fleet, Run

STATE = "/var/lib/connectin-rollback"
SERVICES = ("api", "web")
# Each backend of the load balancer, and the service behind it.
BACKEND_OF = {"api": "api", "web": "web", "assets": "web"}
BACKENDS = tuple(BACKEND_OF)
REQUESTS = 12
# v1.2.0 answers 503, which is why anybody leaves it: no load balancer finds it healthy.
SICK = frozenset({"v1.2.0"})
# The word that the headline of each end begins with, and the exit status of it.
ENDS = {
    "reached": ("Rolled back: ", 0),
    "held": ("HELD: ", 2),
    "restored": (": RESTORED, ", 2),
    "failed": (": no host was switched.", 2),
}
# All that is asked of a host in one call: {service: {state, image}} of every container, HEAD, and the lock.
LOOK = r"""
docker ps --all --no-trunc --filter label=com.docker.compose.oneoff=False \
  --format '{{.Label "com.docker.compose.service"}} {{.State}} {{.ID}}' | while read -r service state id; do
  case "$service" in api|web) ;; *) continue ;; esac
  # One that is being removed may be gone by now.
  image=$(docker inspect --format '{{.Image}}' "$id" 2>/dev/null) || continue
  echo "container $service $state $(docker image inspect --format '{{json .RepoDigests}}' "$image")"
done
echo "head $(git -C /srv/connectin describe --tags --exact-match 2>&1)"
echo "changes $(git -C /srv/connectin status --porcelain --untracked-files=no | tr '\n' ';')"
if [ -e /var/lib/connectin-rollback/lock.json ]; then
  echo "lock $(cat /var/lib/connectin-rollback/lock.json)"
fi
"""


@dataclass(frozen=True)
class Host:
    """A host as its engine, git and files show it: (service, state, digests) of every container of api and web."""

    containers: tuple[tuple[str, str, tuple[str, ...]], ...]
    head: str
    changes: str
    lock: Mapping[str, str]

    def running(self, service: str) -> list[tuple[str, ...]]:
        return [digests for name, state, digests in self.containers if (name, state) == (service, "running")]

    def others(self) -> list[str]:
        """The containers that do not run, and may come back."""
        return [f"{name} {state}" for name, state, _digests in self.containers if state != "running"]


def look(fleet: Fleet, host: str) -> Host:
    containers, words = [], {"head": "", "changes": "", "lock": "{}"}
    for line in fleet.shell(host, LOOK).splitlines():
        word, _space, rest = line.partition(" ")
        if word == "container":
            service, state, digests = rest.split(" ", 2)
            containers.append((service, state, tuple(name.partition("@")[2] for name in json.loads(digests))))
        else:
            words[word] = rest
    return Host(tuple(containers), words["head"], words["changes"], json.loads(words["lock"]))


def look_at_all(fleet: Fleet, hosts: Collection[str]) -> dict[str, Host]:
    with ThreadPoolExecutor(max(1, len(hosts))) as lookers:
        return dict(zip(hosts, lookers.map(lambda host: look(fleet, host), hosts)))


def servers(fleet: Fleet) -> dict[str, dict[str, str]]:
    """{host: {backend: status}} as HAProxy's statistics show it."""
    balancer = fleet.state["load_balancer"]
    status, text = fleet.get(f"http://{balancer['host']}:{balancer['stats']}/;csv")
    assert status == 200, text
    found: dict[str, dict[str, str]] = {host: {} for host in fleet.hosts}
    for row in csv.DictReader(io.StringIO(text.lstrip("# "))):
        if row["svname"] in found:
            found[row["svname"]][row["pxname"]] = row["status"]
    assert all(set(states) == set(BACKENDS) for states in found.values()), found
    return found


def answers(fleet: Fleet) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """What users get: (status, release) of several requests for the API's health, and for the page."""
    balancer = fleet.state["load_balancer"]
    health, pages = [], []
    for _ in range(REQUESTS):
        status, text = fleet.get(f"http://{balancer['host']}:{balancer['api']}/health")
        health.append((status, json.loads(text).get("version", "") if text.startswith("{") else ""))
        status, text = fleet.get(f"http://{balancer['host']}:{balancer['web']}/")
        pages.append((status, "".join(re.findall(r'data-release="([^"]+)"', text)[:1])))
    return health, pages


def assert_one_release_serves(
    fleet: Fleet,
    release: str,
    run: Run,
    end: str,
    *,
    schema: str,
    target: str,
    held: Collection[str] = (),
    lost: Collection[str] = (),
    unsure: Collection[str] = (),
    parts: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> None:
    """At the end of a run the release serves users, on every host but those held, and the run says so.

    ``schema`` is the release that the database's catalog has to be that of, ``target`` where the run wanted to go.
    ``lost`` are those of the ``held`` hosts that cannot be looked at, or may run anything and keep the lock.
    ``unsure`` are hosts of which the load balancer did not tell the run that it gave them back.
    ``parts`` are the services of the hosts that do not have all of them.
    """
    headline, status = ENDS[end]
    assert run.rc == status, run.text
    assert headline in run.text, run.text
    assert "Traceback" not in run.text and "The error was" not in run.text, run.text
    serving = {host: parts.get(host, SERVICES) for host in fleet.hosts if host not in held}
    _assert_hosts(fleet, release, serving, [host for host in held if host not in lost])
    _assert_rotation(fleet, release, serving, held)
    assert fleet.catalog() == fleet.catalog(f"connectin_ref_{schema.replace('.', '_')}")
    if end != "reached":
        _assert_table(fleet, run, target, held, unsure)


def _assert_hosts(fleet: Fleet, release: str, serving: Mapping[str, Collection[str]], held: Collection[str]) -> None:
    published = {service: fleet.published_digest(service, release) for service in SERVICES}
    for host, seen in look_at_all(fleet, [*serving, *held]).items():
        if host in serving:
            for service in serving[host]:
                running = seen.running(service)
                assert len(running) == 1 and published[service] in running[0], (host, service, release, seen)
            assert seen.others() == [], (host, seen)
            assert seen.head == release, (host, seen)
            if "api" in serving[host]:
                status, body = fleet.health(host)
                assert (status, body.get("version")) == (503 if release in SICK else 200, release), (host, status, body)
        else:
            assert seen.containers == (), f"{host} is held, and nothing on it may come back: {seen}"
        assert seen.lock == {}, (host, seen.lock)


def _assert_rotation(fleet: Fleet, release: str, serving: Mapping[str, Collection[str]], held: Collection[str]) -> None:
    def settled() -> bool:
        # A server that HAProxy has just been given back needs one good check.
        return all(
            servers(fleet)[host][backend] == "UP"
            for host, services in serving.items()
            for backend in BACKENDS
            if release not in SICK and BACKEND_OF[backend] in services
        )

    fleet.eventually(settled, 5)
    found = servers(fleet)
    for host in serving:
        for backend, state in found[host].items():
            assert not state.startswith(("MAINT", "DRAIN")), (host, backend, found)
    for host in held:
        assert set(found[host].values()) == {"MAINT"}, (host, found)
    health, pages = answers(fleet)
    if release in SICK:
        assert set(health) == {(503, "")}, health
    else:
        assert set(health) == {(200, release)}, health
    assert {said for _status, said in pages} <= {release, ""}, pages
    assert release in SICK or set(pages) == {(200, release)}, pages


def _assert_table(fleet: Fleet, run: Run, target: str, held: Collection[str], unsure: Collection[str]) -> None:
    for host in fleet.hosts:
        rows = re.findall(rf"^ +{host} +\S.* {re.escape(target)} .* (yes|no|not known) *$", run.text, re.MULTILINE)
        assert rows == ["not known" if host in unsure else "no" if host in held else "yes"], (host, rows, run.text)
        if host in held:
            assert re.search(rf"^ +{host}: .+\n(?: .*\n)*? +next: .+", run.text, re.MULTILINE), run.text
