# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real git checkouts for the unit tests."""

from __future__ import annotations

import os
import subprocess


def git(directory, *args):
    """Run git without any configuration of the machine; returns (rc, stdout, stderr)."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        **{key: value for key, value in os.environ.items() if key == "GIT_COMMITTER_DATE"},
        **{f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(
        ["git", "-C", str(directory), *args], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def commit(directory, tag, *options, **files):
    """Write files, commit and tag them; in a file's name `__` stands for a slash, DOT for a dot."""
    for name, content in files.items():
        path = directory / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", tag)
    assert git(directory, "tag", *options, tag)[0] == 0
