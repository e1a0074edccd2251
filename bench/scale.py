#!/usr/bin/env python3
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whole rollbacks without migrations over fleets of simulated hosts: what they cost the controller (see README.md)."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# The folder of a script is the first that Python looks in.
from simulation import fleet as fleets
from simulation.engine import SERVICES

BENCH = Path(__file__).resolve().parent
# What a rollback may cost, and how much more of the controller's time a host may take in a large fleet.
TASKS_PER_HOST = 12
PLAN_PER_HOST = 2
GROWTH_PERCENT = 20
_TIMES = re.compile(r"(\d+)m([\d.]+)s")


class BenchError(Exception):
    """A run that did not do what is measured."""


@dataclass(frozen=True)
class Figures:
    """One run. Seconds are of the whole run, counts of one host.

    ``module_tasks`` and ``plan_tasks`` are the median of the hosts, with the most of any beside them; ``other_tasks``
    are executions that end on the controller, ``phases`` the module tasks of each play, both as means.
    """

    hosts: int
    forks: int
    strategy: str
    wall: float
    controller_cpu: float
    main_cpu: float
    module_cpu: float
    simulator_cpu: float
    module_tasks: float
    module_tasks_most: int
    other_tasks: float
    plan_tasks: float
    plan_tasks_most: int
    module_processes: float
    phases: dict[str, float]

    @property
    def wall_per_host(self) -> float:
        """Seconds of wall time for each host."""
        return self.wall / self.hosts

    @property
    def cpu_per_host(self) -> float:
        """Seconds of the controller's processor time for each host."""
        return self.controller_cpu / self.hosts


def main() -> int:
    """Measure, print, and tell by the status whether the demands hold."""
    options = arguments()
    runs = []
    for count in options.hosts:
        print(f"{count} hosts, {options.forks} forks ...", file=sys.stderr, flush=True)
        try:
            runs.append(measure(count, options))
        except BenchError as error:
            print(f"bench: {count} hosts: {error}", file=sys.stderr)
            return 1
    figures = [run[0] for run in runs]
    print("\n".join(table(figures)))
    if options.tasks:
        print("\n".join(task_lines(runs[-1][1], figures[-1].hosts, options.tasks)))
    if options.json:
        document = [{**asdict(found), "tasks": costs} for found, costs in runs]
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(any(value > most for _what, value, most in demands(figures)))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hosts", nargs="*", type=int, default=[10, 50, 200], help="sizes of the fleets (10 50 200)")
    parser.add_argument("--forks", type=int, default=20, help="forks of Ansible, as in ansible.cfg (20)")
    parser.add_argument("--json", metavar="FILE", help="write the figures, and the costs of each task, to FILE")
    parser.add_argument("--tasks", type=int, metavar="N", default=0, help="show the N tasks that cost most")
    parser.add_argument(
        "--strategy-plugins", metavar="PATH", help="run with mitogen_linear: PATH is ansible_mitogen/plugins/strategy"
    )
    parser.add_argument(
        "--checkout", metavar="DIR", type=Path, default=BENCH.parent, help="the collection to measure (this one)"
    )
    parser.add_argument(
        "-e", dest="extra", action="append", default=[], metavar="VARS", help="more variables of the run"
    )
    parser.add_argument("--keep", action="store_true", help="keep the fleet's folder, and say where it is")
    return parser.parse_args()


def measure(count: int, options: argparse.Namespace) -> tuple[Figures, list[dict[str, Any]]]:
    """One fleet, one rollback. Raises BenchError unless every simulated host is on the target at the end."""
    with folder(options.keep) as place:
        fleet = fleets.lay_out(place, count, collection(options.checkout))
        with simulator(fleet) as state:
            check(fleet, state(), fleets.BEFORE)
            before = state()["cpu"]
            run = rollback(fleet, options)
            found = state()
            log = (place / "run.log").read_text(encoding="utf-8", errors="replace")
            try:
                if run.status:
                    raise BenchError(f"the rollback ended with {run.status}")
                check(fleet, found, fleets.TARGET)
                if found["unknown"]:
                    raise BenchError("Docker was asked for what is not simulated")
            except BenchError as error:
                unknown = "".join(f"\n  {line}" for line in dict.fromkeys(found["unknown"]))
                raise BenchError(f"{error}{unknown}\n{log[-6000:]}") from error
            costs = json.loads((place / "tasks.json").read_text(encoding="utf-8"))
            return figures_of(fleet, options, run, costs, found["cpu"] - before), costs["tasks"]


@contextmanager
def folder(keep: bool) -> Iterator[Path]:
    """A temporary folder with a short name: sockets have to fit in it."""
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield place
    finally:
        if keep:
            print(f"bench: kept {place}", file=sys.stderr)
        else:
            shutil.rmtree(place)


def collection(checkout: Path) -> Any:
    """The module_utils of the collection that is measured: it writes the ledgers that the fleet starts with."""
    sys.path.insert(0, str(checkout / "collections"))
    name = "ansible_collections.connectin.rollback.plugins.module_utils"
    return SimpleNamespace(**{part: importlib.import_module(f"{name}.{part}") for part in ("_ledger", "_state_dir")})


@contextmanager
def simulator(fleet: fleets.Fleet) -> Iterator[Any]:
    """The process that simulates the engines, and a function that asks it for its state."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulation.server", str(fleet.description)],
        cwd=BENCH,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def state() -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(fleet.control)
            control.sendall(b"state\n")
            return json.loads(control.makefile().readline())

    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise BenchError("the simulator did not start; see: python -m simulation.server <fleet.json>")
        yield state
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Run:
    """How ansible-playbook ended: its status, seconds, and seconds of processor time of it and all it started."""

    status: int
    wall: float
    cpu: float


def rollback(fleet: fleets.Fleet, options: argparse.Namespace) -> Run:
    """Run the playbook as an operator would."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "DOCKER_", "COMPOSE_"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(options.checkout / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(BENCH / "callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "task_costs",
        "ANSIBLE_NOCOLOR": "1",
        "BENCH_TASK_COSTS": str(fleet.folder / "tasks.json"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "LC_ALL": "C.UTF-8",
    }
    if options.strategy_plugins:
        environment |= {"ANSIBLE_STRATEGY_PLUGINS": options.strategy_plugins, "ANSIBLE_STRATEGY": "mitogen_linear"}
    command = ["ansible-playbook", "-i", str(fleet.inventory), "--forks", str(options.forks), "rollback_full.yml"]
    command += ["-e", f"release={fleets.TARGET}", *(part for extra in options.extra for part in ("-e", extra))]
    with (fleet.folder / "run.log").open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=options.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Run(process.returncode, time.monotonic() - started, usage.ru_utime + usage.ru_stime)


def check(fleet: fleets.Fleet, state: Mapping[str, Any], release: str) -> None:
    """Raise BenchError unless every host runs a release and nothing else, by the simulator and the disk."""
    wrong = []
    for host in fleet.hosts:
        runs = sorted(
            (item["service"], item["release"], item["state"])
            for item in state["hosts"][host.name]
            # A container of no service that does not run only holds an image.
            if item["service"] or item["state"] == "running"
        )
        if runs != [(service, release, "running") for service in SERVICES]:
            wrong.append(f"{host.name} runs {runs}")
        head = Path(host.project, ".git", "HEAD").read_text(encoding="utf-8").strip()
        if head != fleet.commits[release]:
            wrong.append(f"the checkout of {host.name} is at {head}")
        if f"WEB_TAG={release}\n" not in Path(host.project, ".env").read_text(encoding="utf-8"):
            wrong.append(f"the .env of {host.name} has not WEB_TAG={release}")
    if wrong:
        raise BenchError(f"not every host is on {release}: " + "; ".join(wrong[:10]))


def module_costs(fleet: fleets.Fleet) -> tuple[float, int]:
    """Seconds of processor time of the modules' processes on all hosts, and how many there were."""
    seconds, lines = 0.0, 0
    for host in fleet.hosts:
        path = Path(host.root, "cpu")
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        seconds += sum(int(minutes) * 60 + float(rest) for minutes, rest in _TIMES.findall(text))
        # bash's times writes two lines: its own, and those of what it started
        lines += text.count("\n")
    return seconds, lines // 2


def figures_of(
    fleet: fleets.Fleet, options: argparse.Namespace, run: Run, costs: Mapping[str, Any], simulated: float
) -> Figures:
    """What a run shows."""
    started = {host.name: 0 for host in fleet.hosts}
    planned = dict(started)
    phases: dict[str, int] = {}
    for task in costs["tasks"]:
        for host, times in task["started"].items():
            if host in started:
                started[host] += times
                planned[host] += times if task["play"] == "Plan" else 0
                phases[task["play"]] = phases.get(task["play"], 0) + times
    seconds, processes = module_costs(fleet)
    return Figures(
        hosts=len(fleet.hosts),
        forks=options.forks,
        strategy="mitogen_linear" if options.strategy_plugins else "linear",
        wall=run.wall,
        controller_cpu=run.cpu - seconds,
        main_cpu=costs["main"],
        module_cpu=seconds,
        simulator_cpu=simulated,
        module_tasks=statistics.median(started.values()),
        module_tasks_most=max(started.values()),
        other_tasks=(sum(task["seen"] for task in costs["tasks"]) - sum(started.values())) / len(fleet.hosts),
        plan_tasks=statistics.median(planned.values()),
        plan_tasks_most=max(planned.values()),
        module_processes=processes / len(fleet.hosts),
        phases={play: total / len(fleet.hosts) for play, total in phases.items()},
    )


def demands(runs: Sequence[Figures]) -> list[tuple[str, float, float]]:
    """What is asked of the largest fleet: name, value, the most that it may be."""
    small, large = min(runs, key=lambda run: run.hosts), max(runs, key=lambda run: run.hosts)
    found = [
        ("module tasks per host", large.module_tasks, TASKS_PER_HOST),
        ("module tasks per host in Plan", large.plan_tasks, PLAN_PER_HOST),
    ]
    if small is not large:
        grown = f"per host from {small.hosts} to {large.hosts} hosts, %"
        found.append((f"controller CPU {grown}", growth(small.cpu_per_host, large.cpu_per_host), GROWTH_PERCENT))
        found.append((f"wall time {grown}", growth(small.wall_per_host, large.wall_per_host), GROWTH_PERCENT))
    return found


def growth(before: float, after: float) -> float:
    """How much larger, in percent."""
    return 100 * (after / before - 1)


def table(runs: Sequence[Figures]) -> list[str]:
    """The figures for people: a column for each run, then where its modules ran, then the demands."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("hosts", lambda run: str(run.hosts)),
        ("forks", lambda run: str(run.forks)),
        ("strategy", lambda run: run.strategy),
        ("wall, s", lambda run: f"{run.wall:.1f}"),
        ("wall per host, s", lambda run: f"{run.wall_per_host:.3f}"),
        ("controller CPU, s", lambda run: f"{run.controller_cpu:.1f}"),
        ("controller CPU per host, s", lambda run: f"{run.cpu_per_host:.3f}"),
        ("  of it the main process, s", lambda run: f"{run.main_cpu / run.hosts:.3f}"),
        ("modules' CPU per host, s", lambda run: f"{run.module_cpu / run.hosts:.3f}"),
        ("both per host, s", lambda run: f"{(run.controller_cpu + run.module_cpu) / run.hosts:.3f}"),
        ("simulator CPU per host, s", lambda run: f"{run.simulator_cpu / run.hosts:.3f}"),
        ("module tasks per host (most)", lambda run: f"{run.module_tasks:g} ({run.module_tasks_most})"),
        ("  of them in Plan (most)", lambda run: f"{run.plan_tasks:g} ({run.plan_tasks_most})"),
        ("module processes per host", lambda run: f"{run.module_processes:.1f}"),
        ("other tasks per host", lambda run: f"{run.other_tasks:.1f}"),
        *((f"modules in {play}", lambda run, play=play: f"{run.phases.get(play, 0):.2f}") for play in runs[-1].phases),
    ]
    lines = [f"{name:30}" + "".join(f"{show(run):>16}" for run in runs) for name, show in rows]
    # What starting costs once is spread over more hosts in a larger fleet, and would hide that a host costs more there.
    ordered = sorted(runs, key=lambda run: run.hosts)
    for before, after in zip(ordered, ordered[1:]):
        each = (after.controller_cpu - before.controller_cpu) / (after.hosts - before.hosts)
        lines.append(f"each host beyond {before.hosts}, up to {after.hosts}: {each:.3f} s of controller CPU")
    for what, value, most in demands(runs):
        lines.append(f"{'holds ' if value <= most else 'BROKEN'}  {what}: {value:.1f} (at most {most})")
    return lines


def task_lines(tasks: Sequence[Mapping[str, Any]], hosts: int, most: int) -> list[str]:
    """The tasks that cost most wall time: seconds of it, of the main process, of workers and modules together."""
    lines = ["", "   wall     main  started   ms a host  seen  task"]
    for task in sorted(tasks, key=lambda task: -task.get("wall", 0))[:most]:
        wall, ours, workers = (task.get(key, 0) for key in ("wall", "main", "workers"))
        where = f"{task['play']}: {task['name']} ({task['action']})"
        lines.append(
            f"{wall:7.2f}  {ours:7.2f}  {workers:7.2f}  {1000 * wall / hosts:10.1f}  {task['seen']:4}  {where}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
