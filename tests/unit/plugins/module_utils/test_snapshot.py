# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _snapshot as snapshot

FILE = snapshot.KeptFile("/srv/docker-compose.yml", "2-docker-compose.yml", "aa", 0o644, 1000, 1000)
ABSENT = snapshot.KeptFile("/srv/.env")
MANIFEST = snapshot.Manifest("c1", "main", (FILE, ABSENT), {"api": {"image": "a:v1", "image_id": "1", "state": "x"}})


def test_what_was_written_is_read_back():
    assert snapshot.parse(MANIFEST.as_text(), "before.json") == MANIFEST


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", MANIFEST.as_text().replace('"v": 1', '"v": 2'), MANIFEST.as_text().replace("uid", "u")],
)
def test_what_is_no_manifest_is_refused_by_its_name(text):
    with pytest.raises(snapshot.SnapshotError, match="/x/before.json cannot be read.*Nothing was changed"):
        snapshot.parse(text, "/x/before.json")


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "-x", "r\n", "x" * 129])
def test_a_run_that_cannot_name_a_folder_is_refused(run_id):
    with pytest.raises(snapshot.SnapshotError, match="cannot name a run"):
        snapshot.check_run(run_id)
    assert snapshot.check_run("20260504T030201Z-7c1e")


def test_copies_of_files_of_one_name_have_names_of_their_own():
    assert snapshot.copy_name(1, "/srv/.env") == "1-env"
    assert snapshot.copy_name(2, "/srv/a/x.yml") != snapshot.copy_name(3, "/srv/b/x.yml")


def test_evidence_of_a_later_try_lies_beside_the_first():
    assert snapshot.beside((), "containers", ".log") == "containers.log"
    assert snapshot.beside({"containers.log"}, "containers", ".log") == "containers-2.log"
    assert snapshot.beside({"containers.log", "containers-2.log"}, "containers", ".log") == "containers-3.log"


def test_the_hashes_of_a_manifest_are_those_of_files_that_were_there():
    kept = (snapshot.KeptFile("/srv/.env", "1-env", "aa"), snapshot.KeptFile("/srv/gone"))
    assert snapshot.Manifest(files=kept).hashes() == {"aa"}


@pytest.mark.parametrize(
    ("head", "branch", "branch_commit", "move"),
    [
        ("c1", "main", "c1", snapshot.Move()),
        ("c1", "", "c1", snapshot.Move((), "main")),
        ("c1", "", "c9", snapshot.Move()),
        ("c2", "", "c1", snapshot.Move(("a", "b"), "main")),
        ("c2", "", "c9", snapshot.Move(("a", "b"), "c1")),
        ("c2", "", "", snapshot.Move(("a", "b"), "c1")),
        ("c2", "main", "c2", snapshot.Move(("a", "b"), "c1")),
    ],
)
def test_the_checkout_goes_back_to_the_branch_only_where_that_is_the_same_commit(head, branch, branch_commit, move):
    assert snapshot.move(MANIFEST, head, branch, branch_commit, ["b", "a"]) == move


def test_a_checkout_that_was_detached_goes_back_detached():
    detached = snapshot.Manifest("c1")
    assert snapshot.move(detached, "c2", "main", "", []) == snapshot.Move((), "c1")


def test_each_line_of_a_log_names_its_container():
    assert snapshot.log_lines("api-1", "t1 a\nt2 b\u2028c\r\n") == "api-1  | t1 a\napi-1  | t2 b\u2028c\r\n"
    assert snapshot.log_lines("api-1", "") == ""
