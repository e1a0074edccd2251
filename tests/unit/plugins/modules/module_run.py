"""Run a module of the collection in a process of its own, the way a host does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[4]

# What Ansible's wrapper does on a host: hand over the arguments, then run the module as a script.
_WRAPPER = """
import runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
runpy.run_module(
    "ansible_collections.connectin.rollback.plugins.modules." + sys.argv[1],
    init_globals={"_module_fqn": "connectin.rollback." + sys.argv[1], "_modlib_path": ""},
    run_name="__main__", alter_sys=True,
)
"""


@dataclass(frozen=True)
class Running:
    """A module at work."""

    process: subprocess.Popen

    def result(self) -> dict[str, Any]:
        """Wait for the module; its results, without the arguments that Ansible adds to them."""
        output, errors = self.process.communicate(timeout=120)
        assert errors == "", errors
        result = json.loads(output)
        assert self.process.returncode == int(result.get("failed", False)), result
        result.pop("invocation", None)
        return result


def start(name: str, *, check: bool = False, environment: dict[str, str] | None = None, **options: Any) -> Running:
    """Start a module with its options and do not wait for it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRAPPER, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "collections"), **(environment or {})},
    )
    arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    process.stdin.close()
    process.stdin = None
    return Running(process)


def run(name: str, *, check: bool = False, environment: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Run a module with its options; its results."""
    return start(name, check=check, environment=environment, **options).result()
