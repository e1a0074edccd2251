# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _git
from checkouts import commit, git


def reader(directory):
    return _git.Git(lambda args: git(directory, *args))


@pytest.fixture
def checkout(tmp_path):
    directory = tmp_path / "app"
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    commit(directory, "v1.0.0", composeDOTyml="a\n", prisma__migrations__1_init__migrationDOTsql="select 1;\n")
    commit(
        directory,
        "v1.1.0",
        *("-a", "-m", "release"),
        prisma__migrations__2_more__migrationDOTsql="select 2;\n",
        prisma__migrations__migration_lockDOTtoml="provider\n",
        packageDOTjson='{"scripts": {"test:smoke": "node smoke.js"}}',
    )
    return directory


def test_head_tags_are_found_for_plain_and_annotated_tags(checkout):
    assert reader(checkout).checkout().head_tags == ("v1.1.0",)
    git(checkout, "checkout", "-q", "v1.0.0")
    assert reader(checkout).checkout().head_tags == ("v1.0.0",)


def test_a_detached_head_has_no_branch(checkout):
    assert reader(checkout).checkout().branch == "main"
    git(checkout, "checkout", "-q", "--detach")
    assert reader(checkout).checkout().branch == ""


def test_the_newest_tags_come_first_whatever_their_names(checkout, monkeypatch):
    for tag, date in (("v9.0.0", "2001-01-01T00:00:00Z"), ("v0.1.0", "2001-01-02T00:00:00Z")):
        monkeypatch.setenv("GIT_COMMITTER_DATE", date)
        git(checkout, "commit", "-q", "--allow-empty", "-m", tag)
        git(checkout, "tag", tag)
    assert [tag for tag in reader(checkout).checkout().tags if tag.endswith(".1.0") or tag == "v9.0.0"] == [
        "v1.1.0",
        "v0.1.0",
        "v9.0.0",
    ]


def test_a_setting_is_read_and_empty_when_it_is_not_set(checkout):
    git(checkout, "config", "core.sshCommand", "ssh -i /etc/key")
    assert reader(checkout).setting("core.sshCommand") == "ssh -i /etc/key"
    assert reader(checkout).setting("core.nothing") == ""


def test_only_tracked_files_count_as_changed_and_names_may_be_anything(checkout):
    commit(checkout, "v1.2.0", **{"a fileDOTtxt": "x", "émil": "x", "old": "a longer content that git sees again\n"})
    (checkout / "untracked").write_text("x")
    (checkout / "a file.txt").write_text("changed")
    (checkout / "émil").unlink()
    git(checkout, "mv", "old", "new")
    assert sorted(reader(checkout).checkout().changed) == ["a file.txt", "new", "old", "émil"]


def test_a_repository_without_a_commit_has_no_head(tmp_path):
    git(tmp_path, "init", "-q")
    found = reader(tmp_path).checkout()
    assert (found.head, found.tags, found.changed) == ("", (), ())


def test_the_commit_of_an_annotated_tag_is_the_one_it_names(checkout):
    assert reader(checkout).commit_of("v1.1.0") == git(checkout, "rev-parse", "HEAD")[1].strip()
    assert reader(checkout).commit_of("v9.9.9") == ""


def test_a_commit_tells_its_migrations_and_scripts(checkout):
    contents = reader(checkout).contents("v1.1.0", "prisma/migrations/")
    assert contents.migrations == ("1_init", "2_more")
    assert contents.scripts == {"test:smoke": "node smoke.js"}
    assert reader(checkout).contents("v1.0.0", "prisma/migrations") == _git.Contents(("1_init",), {})


def test_a_missing_migrations_directory_is_not_an_empty_one(checkout):
    assert reader(checkout).contents("v1.1.0", "no/such/folder").migrations is None
    assert reader(checkout).contents("v1.1.0", "").migrations is None


def test_a_checkout_below_the_top_reads_its_own_files(checkout):
    commit(checkout, "v2.0.0", stack__prisma__9_x__migrationDOTsql="x", stack__packageDOTjson='{"scripts": {"a": "b"}}')
    contents = reader(checkout / "stack").contents("HEAD", "prisma")
    assert contents == _git.Contents(("9_x",), {"a": "b"})


def test_the_remote_tells_the_commit_of_a_tag_that_is_not_local(checkout, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-tags", str(checkout), str(clone))
    assert reader(clone).commit_of("v1.1.0") == ""
    for tag in ("v1.0.0", "v1.1.0"):
        assert reader(clone).remote_commit(tag) == git(checkout, "rev-parse", f"{tag}^{{commit}}")[1].strip()
    assert reader(clone).remote_commit("v1.1") == ""


def test_a_missing_remote_is_unreachable(checkout):
    with pytest.raises(_git.GitError, match="origin") as caught:
        reader(checkout).remote_commit("v1.0.0")
    assert caught.value.kind == "unreachable"


def test_a_directory_without_a_repository_is_told_apart(tmp_path):
    with pytest.raises(_git.GitError) as caught:
        reader(tmp_path).checkout()
    assert caught.value.kind == "no_repository"


def test_a_checkout_of_another_user_is_told_apart(checkout):
    if os.geteuid() != 0:
        pytest.skip("only root can give a checkout to another user")
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(_git.GitError) as caught:
        reader(checkout).checkout()
    assert caught.value.kind == "ownership"


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("git@git.example: Permission denied (publickey).\nfatal: Could not read from remote repository.", "denied"),
        ("fatal: could not read Username for 'https://git.example': terminal prompts disabled", "denied"),
        ("fatal: Authentication failed for 'https://git.example/a.git/'", "denied"),
        ("fatal: unable to access 'https://git.example/': The requested URL returned error: 403", "denied"),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", "denied"),
        ("fatal: unable to access 'https://git.example/': Could not resolve host: git.example", "unreachable"),
        ("ssh: connect to host git.example port 22: Connection refused\nfatal: Could not read from", "unreachable"),
        ("fatal: bad object HEAD", "other"),
    ],
)
def test_failures_of_a_remote_are_told_apart(stderr, kind):
    assert _git.error_kind(stderr) == kind


@pytest.mark.parametrize("package", ["", "{", "[]", '{"scripts": []}', "{}"])
def test_a_package_without_scripts_has_none(package):
    assert _git.npm_scripts(package) == {}


def test_a_message_is_short_and_without_prefix():
    assert _git.first_lines("warning: a\n\nfatal: b\nhint: c\n") == "warning: a; b"


def test_only_what_is_known_is_ours():
    changed = {"pinned.yml": "pp", "docker-compose.yml": "aa", "edited.yml": "ee", "deleted.yml": ""}
    assert _git.foreign(changed, {"pp", "aa"}) == ["deleted.yml", "edited.yml"]
    assert _git.foreign({"deleted.yml": ""}, {""}) == ["deleted.yml"]
