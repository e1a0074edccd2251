"""The sandbox for the tests of whole rollbacks, and how each of them finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import CHECKOUT, Fleet


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The running sandbox; `make integration` starts it."""
    if not (CHECKOUT / ".sandbox/state.json").exists():
        pytest.exit("the sandbox does not run: make sandbox HOSTS=2", returncode=3)
    fleet = Fleet()
    if len(fleet.hosts) < 2:
        pytest.exit("these tests need two hosts: make sandbox HOSTS=2", returncode=3)
    return fleet


@pytest.fixture(scope="session")
def ledger(fleet: Fleet, tmp_path_factory) -> Path:
    """The hosts' state directory after v1.0.0 to v1.2.0 were deployed and recorded; each test begins with it."""
    fleet.sandbox("restore", "v1.0.0", "--web", "image")
    recorded = [fleet.play("record_release.yml")]
    for release, verdict in (("v1.1.0", "good"), ("v1.2.0", "bad")):
        fleet.sandbox("restore", release, "--keep-state", "--web", "image")
        recorded.append(fleet.play("record_release.yml", rollback_verdict=verdict))
    assert [run.rc for run in recorded] == [0, 0, 0], "\n".join(run.text for run in recorded)
    for host in fleet.hosts:
        fleet.shell(host, "rm -rf /root/recorded; cp -a /var/lib/connectin-rollback /root/recorded")
    return Path("/root/recorded")


@pytest.fixture
def at(fleet: Fleet, ledger: Path):
    """Return a function that puts the fleet into the state right after a release was deployed, with its ledger."""

    def put(release: str, web: str = "image") -> None:
        fleet.sandbox("restore", release, "--web", web)
        for host in fleet.hosts:
            fleet.shell(host, f"rm -rf /var/lib/connectin-rollback; cp -a {ledger} /var/lib/connectin-rollback")

    return put
