"""The fleet of the scenario, as the tests of whole rollbacks know it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(CHECKOUT / "tests"), str(CHECKOUT / "tests/integration/stack")]

# Only now, since the paths have to be set first.
from fleet import Fleet
from stand import at, running

__all__ = ["at"]


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The sandbox that `molecule create` started."""
    return running(3)


@pytest.fixture(scope="session")
def ledger() -> Path:
    """The hosts' state directory as `molecule prepare` kept it: v1.0.0 and v1.1.0 were deployed and are good."""
    return Path("/root/recorded")
