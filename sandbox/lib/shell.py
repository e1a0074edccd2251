"""Running commands, telling the steps, and the one error of the sandbox."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# Lines of several threads must not mix.
_print_lock = threading.Lock()


class SandboxError(Exception):
    """What went wrong, what was found and what to type next; shown to the user as it stands."""


def say(text: str) -> None:
    with _print_lock:
        print(text, flush=True)


class Step:
    """One line of output: its purpose, what it found, its seconds."""

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose
        self.note = ""


@contextlib.contextmanager
def step(purpose: str) -> Iterator[Step]:
    """Prints the purpose with the seconds it took, also when it fails."""
    current = Step(purpose)
    started = time.monotonic()
    outcome = "FAILED"
    try:
        yield current
        outcome = "ok"
    finally:
        note = f" ({current.note})" if current.note else ""
        say(f"{outcome:>6}  {time.monotonic() - started:6.1f} s  {current.purpose}{note}")


def run(
    argv: Sequence[str],
    *,
    input_text: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """The finished process with its output as text; a failure is an error that quotes the end of the output."""
    try:
        done = subprocess.run(
            list(argv),
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **env} if env else None,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        if not check:
            return subprocess.CompletedProcess(list(argv), 127, "", str(error))
        raise SandboxError(f"{argv[0]} is not installed on this machine.") from error
    except subprocess.TimeoutExpired as error:
        if not check:
            return subprocess.CompletedProcess(list(argv), 124, "", f"no answer within {timeout} s")
        raise SandboxError(f"{_shown(argv)} gave no answer within {timeout} s.") from error
    if check and done.returncode != 0:
        raise SandboxError(f"{_shown(argv)} ended with {done.returncode}:\n{_tail(done.stdout + done.stderr)}")
    return done


def pipe(producer: Sequence[str], consumer: Sequence[str]) -> None:
    """Runs `producer | consumer` and fails when either does."""
    with subprocess.Popen(list(producer), stdout=subprocess.PIPE) as source:
        sink = subprocess.run(
            list(consumer),
            stdin=source.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if source.returncode != 0 or sink.returncode != 0:
        raise SandboxError(f"{_shown(producer)} | {_shown(consumer)} failed:\n{_tail(sink.stdout)}")


def in_parallel(jobs: Iterable[Callable[[], Any]]) -> list[Any]:
    """The results in the order of the jobs; the first failure is raised once all have ended."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        futures = [pool.submit(job) for job in jobs]
        concurrent.futures.wait(futures)
    return [future.result() for future in futures]


def wait_until(question: Callable[[], bool], what: str, seconds: float, every: float = 0.2) -> None:
    """Returns once the question is answered with yes; an error that names `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            raise SandboxError(f"{what}: not within {seconds:.0f} s.")
        time.sleep(every)


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= 200 else text[:200] + " ..."


def _tail(text: str, lines: int = 25) -> str:
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


def fail(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)
