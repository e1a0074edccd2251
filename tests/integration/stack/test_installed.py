"""The collection as its users get it: built, installed into a folder that is not the checkout, named in full."""

from __future__ import annotations

import os
import subprocess
import tarfile

from fleet import CHECKOUT, Run

KEPT_OUT = (".venv", ".sandbox", ".git", ".cache", ".ansible", "collections", "inventories/sandbox/hosts.yml")


def test_the_built_collection_works_where_it_is_installed(fleet, at, tmp_path):
    at("v1.1.0")
    # The checkout's own settings shall not help.
    (tmp_path / "ansible.cfg").touch()
    programs = CHECKOUT / ".venv/bin"
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }

    def run(*command: str) -> Run:
        return Run(subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180))

    built = run("ansible-galaxy", "collection", "build", str(CHECKOUT), "--output-path", str(tmp_path))
    assert built.rc == 0, built.text
    (archive,) = tmp_path.glob("connectin-rollback-*.tar.gz")
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert [name for name in names if name in KEPT_OUT or name.startswith(tuple(f"{top}/" for top in KEPT_OUT))] == []
    assert not any("__pycache__" in name for name in names)
    installed = run("ansible-galaxy", "collection", "install", "--no-deps", "--offline", str(archive))
    assert installed.rc == 0, installed.text

    inventory = str(CHECKOUT / "inventories/sandbox")
    release = ("-e", "release=v1.0.0")
    planned = run("ansible-playbook", "-i", inventory, "connectin.rollback.rollback_full", *release, "--check")
    assert planned.rc == 0, planned.text
    assert "Rollback of application, database, frontend to v1.0.0" in planned.text
    recorded = run("ansible-playbook", "-i", inventory, "connectin.rollback.record_release")
    assert recorded.rc == 0, recorded.text
    assert "v1.1.0 recorded as good" in recorded.text
