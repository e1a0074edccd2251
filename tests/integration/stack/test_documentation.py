"""Every command that the documentation gives, run as it stands, with the sandbox's names put in."""

from __future__ import annotations

import re

import pytest
from fleet import CHECKOUT, DOWN_IN_V120
from test_rollbacks import assert_serves

MIGRATIONS = "/srv/connectin/apps/api/prisma/migrations"


def blocks(page: str, language: str = "") -> list[str]:
    """Return the code blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (CHECKOUT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the ansible-playbook lines of a page, without their comments."""
    lines = [line.partition(" #")[0].strip() for block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("ansible-playbook")]


@pytest.mark.parametrize("line", commands("README.md"))
def test_a_command_of_the_readme_works_in_the_checkout(fleet, at, line):
    at("v1.1.0")
    line = line.replace("v1.4.2", "v1.0.0").replace("inventories/production", "inventories/sandbox")
    run = fleet.run([*line.split(), "--check"])
    if "-e release=" in line:
        assert run.rc == 0, run.text
        assert "v1.0.0" in run.text
    else:
        assert "[release_missing]" in run.text
        assert run.rc != 0


def test_a_rollback_can_be_finished_by_hand_as_the_page_says(fleet, at):
    at("v1.2.0")
    fleet.react(3)
    (shell,) = blocks("docs/recovery.md", "bash")
    look, undo = blocks("docs/recovery.md", "sql")
    assert DOWN_IN_V120[0] in fleet.psql(look)
    for host in fleet.hosts:
        fleet.shell(host, "cd /srv/connectin; docker compose stop api")
    for migration in reversed(DOWN_IN_V120):
        script = fleet.on("app1", "cat", f"{MIGRATIONS}/{migration}/down.sql")
        text = re.sub(r"^\\i .*$", lambda _found, script=script: script, undo, flags=re.MULTILINE)
        fleet.psql(text.replace("<migration>", migration))
    for host in fleet.hosts:
        fleet.shell(host, "sed -i 's/^WEB_TAG=.*/WEB_TAG=v1.1.0/' /srv/connectin/.env")
        fleet.shell(host, shell)
    assert_serves(fleet, "v1.1.0")
    assert fleet.catalog() == fleet.catalog("connectin_ref_v1_1_0")
    assert {name for name, gone in fleet.rows().items() if gone} == set(DOWN_IN_V120)
