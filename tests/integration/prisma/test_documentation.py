"""What docs/migrations.md shows, run as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from .conftest import CHECKOUT, NEWEST
from .scene import INIT

# What is tested here does not depend on the server's version.
pytestmark = pytest.mark.parametrize("programs", [NEWEST], indirect=True, scope="session", ids=["newest"])

PAGE = (CHECKOUT / "docs" / "migrations.md").read_text()
TASKS = [task for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for task in yaml.safe_load(block)]
(QUESTION,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def srv(three, tmp_path):
    """A checkout as the page has it, with tags v1.1.0 and v1.2.0, and its .env."""
    root = tmp_path / "srv"
    folder = root / "apps" / "api" / "prisma" / "migrations"

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *who, "-C", str(root), *arguments], check=True, capture_output=True)

    folder.mkdir(parents=True)
    git("init")
    shutil.copytree(three.folder / INIT[0], folder / INIT[0])
    git("add", ".")
    git("commit", "-m", "v1.1.0")
    git("tag", "v1.1.0")
    shutil.copytree(three.folder, folder, dirs_exist_ok=True)
    (folder / "20260103_reactions" / "verify.sql").write_text(QUESTION)
    git("add", ".")
    git("commit", "-m", "v1.2.0")
    git("tag", "v1.2.0")
    (root / ".env").write_text(f"DATABASE_URL={three.url}\n")
    return root


def test_the_tasks_of_the_page_do_what_it_says(three, srv):
    results = []
    for task in TASKS:
        ((module, arguments),) = ((key, value) for key, value in task.items() if key != "name")
        text = yaml.safe_dump(arguments).replace("/srv/connectin", str(srv))
        results.append(three.run(module.rpartition(".")[2], **yaml.safe_load(text)))
    assert len(results) == 2 and not any(result.get("failed") for result in results), results
    assert len(results[0]["applied"]) == 3 and results[1]["changed"]
    assert three.live() == [INIT[0]] and three.columns("users") == ["id", "name"]
