"""Where a test of whole rollbacks begins, as fixtures: the running sandbox, and the state right after a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import CHECKOUT, Fleet


def running(hosts: int) -> Fleet:
    """The running sandbox, which has to have so many hosts at least."""
    if not (CHECKOUT / ".sandbox/state.json").exists():
        pytest.exit(f"the sandbox does not run: make sandbox HOSTS={hosts}", returncode=3)
    fleet = Fleet()
    if len(fleet.hosts) < hosts:
        pytest.exit(f"these tests need {hosts} hosts: make sandbox HOSTS={hosts}", returncode=3)
    return fleet


@pytest.fixture
def at(fleet: Fleet, ledger: Path):
    """Return a function that puts the fleet into the state right after a release was deployed, with its ledger."""

    def put(release: str, web: str = "image") -> None:
        fleet.sandbox("restore", release, "--web", web)
        for host in fleet.hosts:
            fleet.shell(host, f"rm -rf /var/lib/connectin-rollback; cp -a {ledger} /var/lib/connectin-rollback")

    return put
