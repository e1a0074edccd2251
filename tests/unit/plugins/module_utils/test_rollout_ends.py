"""Every end of a rollout, on a simulated fleet that is switched as roles/rollout does it: what is claimed is true.

The judge of a claim is the simulated fleet itself: which release each host may serve to users, whatever was reported.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _outcome,
    _plan,
    _plan_options,
    _rollout,
    _verify,
)
from rollback_readings import INIT, POSTS, REACTED, RENAME, RENAMED, container, history, migration, stack

BEFORE, TARGET = "v1.2.0", "v1.1.0"
PARTS = {"api": "application", "web": "frontend"}
# What happens to a host when it is switched. "lost" leaves what ran before, "lost late" what the target brought.
SWITCH_FAULTS = (
    "",
    "disk",
    "lost",
    "lost late",
    "engine",
    "sick",
    "crash",
    "sick, and stays",
    "no drain",
    "away for a moment",
    "no undrain",
    "no undrain, and stays",
    "unjudged",
)
# What happens to a host that was switched well, or not at all, when the others are done with.
LATER_FAULTS = ("lost at the end", "no restore", "no restore, and stays", "sick at the end")
FAULTS = (*SWITCH_FAULTS, *LATER_FAULTS)
# How a host begins: on the release before, on the target, or held by an earlier run.
BEGINS = ("before", "target", "held")


@dataclass
class Host:
    """The truth of one host."""

    services: tuple[str, ...]
    fault: str = ""
    begins: str = "before"
    well_before: bool = False
    configured: str = BEFORE
    runs: dict[str, str] = field(default_factory=dict)  # service -> release, of the containers that are there
    state: str = "running"
    sick: bool = False
    reachable: bool = True
    engine: bool = True
    full: bool = False
    out: bool = False  # of rotation

    def __post_init__(self):
        self.configured = TARGET if self.begins in ("target", "held") else BEFORE
        self.out = self.begins == "held"
        self.runs = {} if self.begins == "held" else dict.fromkeys(self.services, self.configured)

    def may_serve(self) -> set[str]:
        """Return the releases that users may get from this host, now or when it comes back by itself."""
        return set() if self.out else set(self.runs.values())

    def well(self) -> bool:
        up = self.reachable and self.engine and self.state == "running" and not self.sick
        return up and set(self.runs) == set(self.services)

    def as_before(self) -> bool:
        """Return whether the release before does as it did: an API that was sick may be so again."""
        return self.well() or (self.sick and self.services == ("api",) and not self.well_before)

    def reading(self) -> dict:
        if not self.reachable:
            return {"unreachable": True, "msg": "timed out"}
        found = stack(runs=self.configured, target=TARGET, services=self.services)
        if self.full:
            found["engine"]["free_mb"] = 3
        if not self.engine:
            found["engine"]["version"] = ""
        for name, service in found["services"].items():
            release = self.runs.get(name) if self.engine else None
            service["health"] = {"status": 0}
            service["running"] = None
            if release:
                service["running"] = container(name, release, state=self.state, image_id=f"sha256:{release}")
                bad = self.sick or (release == BEFORE and name == "api" and not self.well_before)
                service["health"] = {"status": 0 if self.state != "running" else 503 if bad else 200}
        return found


@cache
def plan_of(hosts: tuple, hooks: bool, offline: bool, lossy: bool, settings: tuple) -> dict:
    """Return the plan of a fleet, which nothing may change: what goes wrong later is no part of it."""
    states = {name: Host(services, "", begins, well_before) for name, services, begins, well_before in hosts}
    rows = [migration(INIT), migration(POSTS)]
    if offline:
        rows += [dict(RENAMED), dict(REACTED) if lossy else migration("20250304_more")]
    return _plan.make_plan(
        {host: state.reading() for host, state in states.items()},
        history(*rows),
        _plan_options.Options(
            release=TARGET,
            parts=("application", "database", "frontend"),
            policy="auto",
            consent=TARGET,
            components={host: [PARTS[name] for name in state.services] for host, state in states.items()},
            services={"application": "api", "frontend": "web"},
            run_id="run1",
            runner=next(iter(states)),
            hooks=hooks,
            drained={host: True for host, state in states.items() if state.out},
            **dict(settings),
        ),
    )


@dataclass
class Fleet:
    """Hosts, a load balancer and a database, and the roles that act on them."""

    hosts: dict[str, Host]
    hooks: bool
    offline: bool
    lossy: bool
    settings: dict
    schema: str = BEFORE
    marks: dict = field(default_factory=dict)
    failures: dict = field(default_factory=dict)
    tried: Counter = field(default_factory=Counter)
    asked: Counter = field(default_factory=Counter)
    forward: bool = False

    def __post_init__(self):
        self.plan = plan_of(
            tuple((host, state.services, state.begins, state.well_before) for host, state in self.hosts.items()),
            self.hooks,
            self.offline,
            self.lossy,
            tuple(self.settings.items()),
        )
        assert self.plan["refusals"] == []
        assert self.plan["online"] is not self.offline
        self.snapshots = {host: state.configured for host, state in self.hosts.items()}

    # The tasks of roles/rollout

    def mark(self, host: str) -> dict:
        return self.marks.get(host) or _rollout.begun(self.plan["hosts"][host])

    def fail(self, host: str, phase: str) -> None:
        self.failures.setdefault(host, [{"phase": phase, "message": f"{self.hosts[host].fault or 'a poll'}"}])

    def drain(self, host: str) -> bool:
        if self.hosts[host].fault == "no drain":
            return False
        # The load balancer is away until it is asked for the third time.
        if self.hosts[host].fault == "away for a moment" and self.asked[host] < 2:
            self.asked[host] += 1
            return False
        self.hosts[host].out = True
        return True

    def undrain(self, host: str) -> bool:
        """Return whether the load balancer says so; where it does not, it may have done it all the same."""
        fault = self.hosts[host].fault
        if fault == "away for a moment" and self.asked[host] < 2:
            self.asked[host] += 1
            return False
        self.hosts[host].out = fault == "no undrain, and stays"
        return not fault.startswith("no undrain")

    def remove(self, host: str) -> None:
        state = self.hosts[host]
        if state.reachable and state.engine and not state.fault.endswith("and stays"):
            state.runs = {}

    def start_target(self, host: str) -> bool:
        """Return whether the target was started."""
        state = self.hosts[host]
        if state.fault == "lost":
            state.reachable = False
        if state.fault == "engine":
            state.engine = False
        if state.fault == "disk":
            state.full = True
        if not state.reachable or not state.engine or state.full:
            return False
        state.configured = TARGET
        state.runs = dict.fromkeys(state.services, TARGET)
        state.sick = state.fault.startswith("sick, and") or state.fault == "sick"
        if state.fault == "crash":
            state.state = "restarting"
        if state.fault == "lost late":
            state.reachable = False
        return not state.sick and state.state == "running" and state.reachable

    def switch(self, step: dict) -> None:
        """batch.yml"""
        for host in step["hosts"]:
            self.tried[host] += 1
            begun = self.mark(host)
            if self.hooks and not self.drain(host):
                self.marks[host] = {**begun, "status": "failed", "fault": "rotation"}
                self.fail(host, "Switch")
                began_out = begun["drained"] or self.plan["hosts"][host]["before_drained"]
                if not began_out and not self.undrain(host):
                    self.marks[host] = {**self.marks[host], "unsure": True}
                continue
            self.marks[host] = {**begun, "touched": True, "drained": self.hooks}
            if not self.start_target(host):
                self.fail(host, "Switch")
        for host in step["hosts"]:
            if host not in self.failures and not self.hosts[host].well():
                self.fail(host, "Switch")
        for host in step["hosts"]:
            if host not in self.failures:
                self.marks[host] = {**self.mark(host), "status": "done", "traffic": not self.hooks}
            elif self.hosts[host].fault != "unjudged":
                self.judge(host)
        if _rollout.next_step(self.plan, self.marks, step)["end"] == "restore":
            return
        for host in step["hosts"]:
            if host in self.failures:
                if self.mark(host)["touched"] and self.hosts[host].fault != "unjudged":
                    self.hold(host)
            elif self.hooks:
                # What an undrain that fails midway comes to is not known.
                self.marks[host] = {**self.mark(host), "traffic": True, "drained": False}
                if not self.undrain(host):
                    self.fail(host, "Switch")
                    self.judge(host)
                    self.hold(host)

    def judge(self, host: str) -> None:
        mark = self.mark(host)
        fault = mark["fault"] or _rollout.fault_of(self.plan, host, self.hosts[host].reading())
        traffic = not self.hooks or mark["traffic"]
        self.marks[host] = {**mark, "status": "failed", "fault": fault, "traffic": traffic}

    def hold(self, host: str) -> None:
        if self.hooks and self.drain(host):
            self.marks[host] = {**self.mark(host), "drained": True, "unsure": False}
        self.remove(host)

    def end(self, step: dict) -> None:
        for host, state in self.hosts.items():
            mark = self.mark(host)
            if step["end"] == "drain" and (
                mark["status"] == "pending" or mark["status"] == "failed" and not mark["touched"]
            ):
                self.marks[host] = mark
                self.fail(host, "Restore")
                self.hold(host)
            concerned = mark["touched"] or mark["drained"] or self.plan["hosts"][host]["stop_writers"]
            if step["end"] != "restore":
                continue
            if self.plan["hosts"][host]["drained"]:
                # It served nobody before.
                if mark["touched"]:
                    self.hold(host)
            elif concerned and not self.restore(host, mark, state):
                self.fail(host, "Restore")
                self.hold(host)

    def restore(self, host: str, mark: dict, state: Host) -> bool:
        drained = mark["drained"] or (self.hooks and self.drain(host))
        self.marks[host] = {**mark, "drained": drained, "unsure": mark.get("unsure", False) and not drained}
        if not state.reachable or state.full or not state.engine:
            return False
        state.configured = self.snapshots[host]
        if self.offline and not self.forward:
            if "api" not in state.services:
                return False
            self.schema, self.forward = BEFORE, True
        state.runs = dict.fromkeys(state.services, state.configured)
        state.state, state.sick = "running", state.fault.startswith("no restore")
        if _rollout.restore_doubts(self.plan, host, state.reading()):
            return False
        self.marks[host] = {**self.marks[host], "status": "restored", "drained": False, "unsure": False}
        if self.hooks and not self.undrain(host):
            self.fail(host, "Restore")
            self.marks[host] = {**self.marks[host], "unsure": True}
        return True

    def run(self) -> dict:
        if self.offline:
            self.schema = TARGET
            for state in self.hosts.values():
                state.runs.pop("api", None)
        step = None
        while step is None or step["hosts"]:
            step = _rollout.next_step(self.plan, self.marks, step)
            assert step["number"] <= len(self.hosts) + 1, "it does not end"
            assert not set(step["hosts"]) & set(self.failures), "a host that failed is tried again"
            self.switch(step)
        self.step = step
        for state in self.hosts.values():
            if state.fault == "lost at the end":
                state.reachable = False
            if state.fault == "sick at the end":
                state.sick = True
        self.end(step)
        if step["end"] in ("complete", "drain"):
            for host, state in self.hosts.items():
                reading = state.reading()
                if host not in self.failures and (_verify.problems(self.plan, host, reading) or not state.well()):
                    self.fail(host, "Verify")
        return _outcome.outcome(
            self.plan,
            self.failures,
            {host: state.reading() for host, state in self.hosts.items()},
            {
                "phases": [],
                "rolled_back": [RENAME] if self.offline else [],
                "backups": [],
                "progress": self.marks,
                "step": step,
                "forward": self.forward,
            },
        )


def check(fleet: Fleet) -> str:
    """Run the rollout and compare what is claimed with what is; return the result."""
    began = deepcopy(fleet.hosts)
    result = fleet.run()
    claimed = result["result"]
    hosts = fleet.hosts
    served = set().union(*(state.may_serve() for state in hosts.values()))
    serving = {host for host, state in hosts.items() if state.may_serve()}
    named = {host for host, entry in result["hosts"].items() if not entry["in_rotation"]}
    unsure = {host for host, entry in result["hosts"].items() if entry["unsure"]}
    carried = {name for host in serving for name in hosts[host].runs}
    everything = {name for state in hosts.values() for name in state.services}
    assert all(number == 1 for number in fleet.tried.values())
    if claimed in ("reached", "held"):
        assert served == {TARGET}
        assert fleet.schema == (TARGET if fleet.offline else BEFORE)
        assert all(hosts[host].well() for host in serving)
        assert carried == everything
        assert named - unsure == set(hosts) - serving - unsure
        assert (claimed == "reached") == (serving == set(hosts) and not fleet.failures)
    if claimed == "restored":
        assert served == {BEFORE}
        assert fleet.schema == BEFORE
        assert carried == everything
        # A host that was never touched is as it was: should it be lost by now, it can serve nothing else.
        assert all(hosts[host].as_before() for host in serving if fleet.marks.get(host, {}).get("touched"))
        assert named - unsure == set(hosts) - serving - unsure
    if claimed == "failed":
        assert {host: (state.runs, state.out) for host, state in hosts.items()} == {
            host: (state.runs, state.out) for host, state in began.items()
        }
    if claimed != "reached":
        for host, entry in result["hosts"].items():
            at_rest = host in serving and (hosts[host].may_serve() == {TARGET} or claimed in ("restored", "failed"))
            assert entry["next"] or at_rest, f"{host} has no next command"
    return claimed


SHARED = {1: ["both"], 2: ["both"] * 2, 3: ["both"] * 3}
SEPARATE = {2: ["api", "web"], 3: ["api", "api", "web"], 4: ["api", "api", "web", "web"]}
KINDS = {"both": ("api", "web"), "api": ("api",), "web": ("web",)}


def fleet_of(kinds, faults, begins=(), hooks=True, database="none", well_before=False, **settings) -> Fleet:
    begins = begins or ["before"] * len(kinds)
    hosts = {
        f"h{number:02}": Host(KINDS[kind], fault, begin, well_before)
        for number, (kind, fault, begin) in enumerate(zip(kinds, faults, begins), 1)
    }
    values = {"on_failure": "auto", "max_failed": 1, "min_serving": "50%", **settings}
    return Fleet(hosts, hooks, database != "none", database == "lossy", values)


def told(fleet: Fleet) -> str:
    faults = ", ".join(f"{host}: {state.fault or 'well'} ({state.begins})" for host, state in fleet.hosts.items())
    rules = fleet.plan["rollout"]
    return f"{faults}; hooks {fleet.hooks}, offline {fleet.offline}, lossy {fleet.lossy}, {rules}"


def checked(fleet: Fleet) -> str:
    text = told(fleet)
    try:
        return check(fleet)
    except AssertionError as error:
        raise AssertionError(f"{text}: {getattr(fleet, 'step', '')} {fleet.marks}: {error}") from error


@pytest.mark.parametrize("hooks", [True, False], ids=["hooks", "no hooks"])
@pytest.mark.parametrize("on_failure", ["auto", "hold", "restore"])
@pytest.mark.parametrize("database", ["none", "down", "lossy"])
@pytest.mark.parametrize("kinds", [SHARED[1], SHARED[2], SEPARATE[2]], ids=["one", "two", "api and web"])
def test_whatever_fails_on_a_small_fleet_the_end_is_as_it_is_told(kinds, database, on_failure, hooks):
    for faults in itertools.product(FAULTS, repeat=len(kinds)):
        for well_before in (True, False):
            checked(
                fleet_of(kinds, faults, hooks=hooks, database=database, on_failure=on_failure, well_before=well_before)
            )


@pytest.mark.parametrize("on_failure", ["auto", "hold", "restore"])
@pytest.mark.parametrize("kinds", [SHARED[2], SEPARATE[3]], ids=["two", "api twice and web"])
def test_a_run_that_takes_an_earlier_one_up_again_ends_as_it_is_told(kinds, on_failure):
    for begins in itertools.product(BEGINS, repeat=len(kinds)):
        if set(begins) <= {"target"}:
            continue
        for faults in itertools.product(("", "lost", "sick", "no drain", "lost at the end"), repeat=len(kinds)):
            for hooks in (True, False):
                checked(fleet_of(kinds, faults, begins, hooks, on_failure=on_failure))


@pytest.mark.parametrize("seed", range(10))
def test_whatever_fails_on_a_fleet_of_three_to_ten_the_end_is_as_it_is_told(seed):
    chance = random.Random(seed)
    seen = Counter()
    for _ in range(150):
        size = chance.choice((3, 4, 10))
        kinds = ["both"] * size if chance.random() < 0.5 else (["api", "web"] * size)[:size]
        faults = [chance.choice(FAULTS) if chance.random() < 0.3 else "" for _ in kinds]
        database = chance.choice(("none", "none", "down", "lossy"))
        begins = [chance.choice(BEGINS) if database == "none" and chance.random() < 0.2 else "before" for _ in kinds]
        if set(begins) <= {"target"}:
            continue
        fleet = fleet_of(
            kinds,
            faults,
            begins,
            chance.random() < 0.6,
            database,
            chance.random() < 0.5,
            on_failure=chance.choice(("auto", "auto", "hold", "restore")),
            max_failed=chance.choice((0, 1, 2, 10)),
            min_serving=chance.choice(("0", "50%", "100%")),
            batches=chance.choice((("canary", "50%", "100%"), ("canary",), ("1",), ("100%",), ("50%", "canary"))),
        )
        seen[checked(fleet)] += 1
    assert {"reached", "held", "restored", "unresolved"} <= set(seen)


@pytest.mark.parametrize(
    ("faults", "changes", "expected"),
    [
        (["", "", ""], {}, "reached"),
        (["sick", "", ""], {}, "restored"),
        (["disk", "", ""], {}, "held"),
        (["", "sick", ""], {}, "held"),
        (["", "", "lost"], {}, "held"),
        (["", "", "lost"], {"hooks": False}, "unresolved"),
        (["", "", "disk"], {"hooks": False}, "held"),
        (["", "disk", "disk"], {}, "restored"),
        (["", "disk", "disk"], {"min_serving": "1"}, "held"),
        (["", "disk", "disk"], {"database": "lossy"}, "held"),
        (["sick", "", ""], {"database": "lossy"}, "restored"),
        (["sick", "", ""], {"database": "lossy", "hooks": False}, "unresolved"),
        (["no drain", "", ""], {}, "failed"),
        (["no drain", "", ""], {"database": "down"}, "restored"),
        (["away for a moment", "", ""], {"database": "down"}, "restored"),
        (["", "", "no undrain"], {}, "held"),
        (["", "", "lost at the end"], {}, "unresolved"),
        (["sick", "", ""], {"on_failure": "hold"}, "restored"),
        (["", "disk", ""], {"on_failure": "restore"}, "restored"),
        (["disk", "disk", ""], {"max_failed": 2, "min_serving": "0"}, "held"),
        (["disk", "disk", "no undrain"], {"max_failed": 3, "min_serving": "0"}, "unresolved"),
        (["no undrain, and stays", "no undrain, and stays", ""], {}, "restored"),
        (["no undrain, and stays", "no drain", "no drain"], {}, "restored"),
    ],
)
def test_a_fleet_of_three_comes_to_the_best_end_that_can_be_had(faults, changes, expected):
    assert check(fleet_of(SHARED[3], faults, **changes)) == expected


@pytest.mark.parametrize(
    ("begins", "faults", "expected"),
    [
        (["target", "target", "held"], ["", "", ""], "reached"),
        (["target", "target", "held"], ["", "", "disk"], "held"),
        (["target", "target", "held"], ["", "", "sick"], "held"),
        (["target", "target", "held"], ["", "", "no drain"], "held"),
        (["target", "target", "held"], ["", "", "away for a moment"], "held"),
        (["target", "before", "before"], ["", "", ""], "reached"),
        # Two fail: the one that was there already goes on alone, since the other release would not serve alone.
        (["target", "before", "before"], ["", "disk", "disk"], "held"),
    ],
)
def test_a_run_taken_up_again_comes_to_the_best_end_that_can_be_had(begins, faults, expected):
    assert check(fleet_of(SHARED[3], faults, begins)) == expected
