# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.connectin.rollback.plugins.module_utils import _ledger
from ansible_collections.connectin.rollback.plugins.modules import stack_checkout
from checkouts import commit, git

GIT = shutil.which("git")
PINNED = "image: r/api:v2@sha256:1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout of main at v2; v1 has other content in four files, one that v2 lacks, and lacks one that v2 has."""
    directory, programs = tmp_path / "srv", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    (tmp_path / "state").mkdir()
    for name in ("git", "sh", "cat"):
        (programs / name).symlink_to(shutil.which(name))
    git(directory, "init", "-q", "-b", "main")
    same = dict.fromkeys(("a", "composeDOTyml", "m", "z"), "v1\n")
    commit(directory, "v1", **same, old__file="v1\n", DOTgitignore=".env\n")
    git(directory, "rm", "-q", "-r", "old")
    commit(directory, "v2", **dict.fromkeys(same, "v2\n"), new="v2\n")
    (directory / ".env").write_text("SECRET=hunter2\n")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    return directory


@pytest.fixture
def run(project, capsys):
    target = id_of(project, "v1")

    def call(check=False, **options):
        options = {
            "project_dir": str(project),
            "commit": target,
            "state_dir": str(project.parent / "state"),
            "_ansible_check_mode": check,
            **options,
        }
        with patch_module_args(options), pytest.raises(SystemExit) as ended:
            stack_checkout.main()
        output = capsys.readouterr().out
        assert "Traceback" not in output
        return ended.value.code, json.loads(output)

    return call


def id_of(project, release):
    return git(project, "rev-parse", f"{release}^{{commit}}")[1].strip()


def world(project):
    """Every file, what git thinks of them, and where HEAD is."""
    files = {
        str(path.relative_to(project)): path.read_text()
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(project).parts
    }
    folders = sorted(path.name for path in project.iterdir() if path.is_dir())
    return files, folders, git(project, "status", "--porcelain")[1], git(project, "symbolic-ref", "-q", "HEAD")[1]


def pin(project):
    entry = _ledger.Entry(
        "mark", "v2", pins=[{"path": "compose.yml", "sha256": hashlib.sha256(PINNED.encode()).hexdigest()}]
    )
    (project.parent / "state" / "ledger.jsonl").write_text(entry.as_line())
    (project / "compose.yml").write_text(PINNED)


def smudge(project, script):
    """What git runs for each file that it writes, $x being its content: where it fails, so does the checkout."""
    (project / ".git" / "info" / "attributes").write_text("* filter=disk\n.gitattributes !filter\n")
    git(project, "config", "filter.disk.required", "true")
    git(project, "config", "filter.disk.clean", "cat")
    git(project, "config", "filter.disk.smudge", f"read x; {script}; echo $x")


def test_the_checkout_is_moved_once_and_check_mode_says_so_before(project, run):
    before = world(project)
    code, predicted = run(check=True)
    assert (code, predicted["changed"], world(project)) == (0, True, before)
    code, done = run()
    assert (code, done["changed"], done["discarded"]) == (0, True, [])
    assert {key: done[key] for key in ("before", "diff")} == {key: predicted[key] for key in ("before", "diff")}
    assert done["before"] == id_of(project, "v2")
    files, _folders, status, branch = world(project)
    assert (files["a"], files["old/file"], "new" in files, status, branch) == ("v1\n", "v1\n", False, "", "")
    assert [run(check=check)[1]["changed"] for check in (True, False)] == [False, False]


def test_what_this_collection_wrote_is_put_back_first(project, run):
    pin(project)
    code, result = run()
    assert (code, result["discarded"]) == (0, ["compose.yml"])
    assert (project / "compose.yml").read_text() == "v1\n"


@pytest.mark.parametrize("check", [False, True])
def test_what_somebody_changed_or_left_in_the_way_is_told_at_once_and_kept(project, run, check):
    pin(project)
    (project / "a").write_text("mine\n")
    (project / "old").mkdir()
    (project / "old" / "file").write_text("mine\n")
    before = world(project)
    code, result = run(check=check)
    assert code == 1 and world(project) == before
    assert result["msg"].startswith("Nothing was changed: the checkout has local changes in a (git -C ")
    assert "old/file" in result["msg"] and "compose.yml" not in result["msg"]


@pytest.mark.parametrize("check", [False, True])
def test_a_commit_that_is_not_there_is_told_with_the_command_that_gets_it(project, run, check):
    before = world(project)
    code, result = run(commit="f" * 40, check=check)
    assert code == 1 and "fetch --tags" in result["msg"] and world(project) == before


def test_where_git_fails_midway_the_checkout_is_as_it_was_and_the_next_try_gets_there(project, run):
    pin(project)
    smudge(project, "[ %f$x != zv1 ] || { echo 'No space left on device' >&2; exit 1; }")
    code, result = run()
    assert (code, result["left"]) == (1, []), result
    assert (
        "No space left on device" in result["msg"]
        and "All files are those of" in result["msg"]
        and "df -h" in result["msg"]
    )
    files, folders, status, branch = world(project)
    assert (status, branch.strip()) == ("", "refs/heads/main")
    assert set(files.values()) == {"v2\n", ".env\n", "SECRET=hunter2\n"} and folders == [".git"]
    smudge(project, ":")
    assert run()[1]["changed"]
    assert (project / "z").read_text() == "v1\n"


def test_without_the_putting_back_git_leaves_a_mixture_that_it_refuses_itself(project):
    smudge(project, "[ %f$x != zv1 ] || exit 1")
    assert git(project, "checkout", "--detach", "v1")[0] != 0
    assert world(project)[0]["a"] == "v1\n" and world(project)[0].get("z") != "v1\n"
    smudge(project, ":")
    rc, _out, told = git(project, "checkout", "--detach", "v1")
    assert rc != 0 and "would be overwritten" in told


def test_what_cannot_be_put_back_is_named_with_the_command_that_does(project, run, tmp_path):
    full = tmp_path / "full"
    smudge(project, f"[ %f != z ] || : >{full}; [ ! -e {full} ] || exit 1")
    code, result = run()
    assert (code, result["left"]) == (1, ["a", "compose.yml", "m", "new", "z"])
    assert "could not be put back: a, compose.yml, m, new, z may be of another commit" in result["msg"]
    command = f"git -C {project} checkout --force"
    assert result["msg"].endswith(command)
    smudge(project, ":")
    assert git(project, "checkout", "--force")[0] == 0
    assert world(project)[2] == "" and run()[1]["changed"]


@pytest.mark.parametrize("check", [False, True])
def test_a_file_that_git_ignores_and_would_overwrite_is_in_the_way_too(project, run, check):
    (project / ".git" / "info" / "exclude").write_text("old\n")
    (project / "old").mkdir()
    (project / "old" / "file").write_text("mine\n")
    code, result = run(check=check)
    assert code == 1 and "Nothing was changed" in result["msg"] and "old/file" in result["msg"]
    assert (project / "old" / "file").read_text() == "mine\n" and (project / "a").read_text() == "v2\n"


def test_a_file_that_git_could_not_write_is_a_failure_although_git_ends_well(project, run, tmp_path):
    commit(project, "v3", big="x" * 200_000, new="v3\n")
    git(project, "checkout", "-q", "-b", "serving", "v2")
    before, target = world(project), id_of(project, "v3")
    limited = tmp_path / "bin" / "git"
    limited.unlink()
    limited.write_text(f'#!/bin/sh\ntrap "" XFSZ; ulimit -f 100; exec {GIT} "$@"\n')
    limited.chmod(0o755)
    assert git(project, "checkout", "--detach", "v3")[0] == 0, "git itself says that all is well"
    assert git(project, "checkout", "--force", "serving")[0] == 0
    code, result = run(commit=target)
    assert (code, result["left"]) == (1, []), result
    assert "unable to write file big" in result["msg"]
    assert world(project) == before and id_of(project, "HEAD") == id_of(project, "v2")


def test_what_git_was_told_not_to_see_is_not_lost_where_git_refuses(project, run):
    git(project, "update-index", "--assume-unchanged", "a")
    (project / "a").write_text("mine\n")
    before = world(project)
    code, result = run()
    assert (code, result["left"], world(project)) == (1, [], before)
    assert "would be overwritten" in result["msg"]


@pytest.mark.parametrize("branch", [True, False])
def test_where_a_hook_fails_once_git_is_there_the_checkout_goes_back_all_the_same(project, run, branch):
    if not branch:
        git(project, "checkout", "-q", "--detach")
    before, head = world(project), id_of(project, "HEAD")
    hook = project / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 3\n")
    hook.chmod(0o755)
    code, result = run()
    assert (code, result["left"]) == (1, []), result
    assert (world(project), id_of(project, "HEAD")) == (before, head)


def test_a_folder_that_is_no_checkout_is_told(project, run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, result = run(project_dir=str(tmp_path / "empty"))
    assert code == 1 and "is no git checkout. Nothing was changed. Next: git -C" in result["msg"]


def test_a_folder_that_is_not_there_is_told_and_not_made(run, tmp_path):
    code, result = run(project_dir=str(tmp_path / "srv2"))
    assert code == 1 and "There is no folder" in result["msg"] and not (tmp_path / "srv2").exists()


def test_a_host_without_git_is_told(project, run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, result = run()
    assert code == 1 and "apt-get install git" in result["msg"]
