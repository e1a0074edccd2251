"""The sandbox for the tests of whole rollbacks, and how each of them finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import Fleet
from stand import at, running

__all__ = ["at"]


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The running sandbox; `make integration` starts it."""
    return running(2)


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
