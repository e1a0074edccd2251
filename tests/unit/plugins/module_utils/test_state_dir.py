from __future__ import annotations

import multiprocessing
import os
import stat

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _state_dir


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_directory_is_private_whatever_its_parents_are(tmp_path):
    _state_dir.make_directory(str(tmp_path / "lib" / "state"))
    assert mode(tmp_path / "lib" / "state") == 0o700
    assert mode(tmp_path / "lib") == 0o777 & ~umask()


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_a_directory_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o750)
    _state_dir.make_directory(str(tmp_path))
    assert mode(tmp_path) == 0o750


def test_appending_makes_a_private_file_and_keeps_what_is_in_it(tmp_path):
    path = str(tmp_path / "log")
    _state_dir.append_text(path, "one\n")
    _state_dir.append_text(path, "zwölf\n")
    assert mode(path) == 0o600
    assert _state_dir.read_text(path) == "one\nzwölf\n"


def test_writing_replaces_a_file_by_a_private_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("a much longer content than the new one")
    path.chmod(0o644)
    _state_dir.write_atomic(str(path), b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(_state_dir.StateDirError, match="Cannot write"):
        _state_dir.write_atomic(str(tmp_path / "file"), b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_not_there_has_no_content_and_can_be_removed(tmp_path):
    path = str(tmp_path / "file")
    assert _state_dir.read_bytes(path) is None
    assert _state_dir.read_text(path) is None
    _state_dir.remove(path)
    _state_dir.append_text(path, "x")
    _state_dir.remove(path)
    assert _state_dir.read_text(path) is None


def test_bytes_that_are_no_text_can_be_read(tmp_path):
    (tmp_path / "file").write_bytes(b"a\xff\xc3")
    assert _state_dir.read_text(str(tmp_path / "file")) == "a\ufffd\ufffd"


def test_what_is_in_the_way_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(_state_dir.StateDirError, match="Not a directory.*set rollback_state_dir elsewhere"):
        _state_dir.make_directory(str(tmp_path / "file" / "state"))


def test_reading_without_a_directory_waits_for_nothing_and_makes_nothing(tmp_path):
    with _state_dir.shared(str(tmp_path / "state")):
        assert os.listdir(tmp_path) == []


def enter(guard, directory, go, inside):
    go.wait(20)
    with getattr(_state_dir, guard)(directory):
        inside.set()


@pytest.mark.parametrize(
    ("first", "second", "gets_in"),
    [("exclusive", "exclusive", False), ("exclusive", "shared", False), ("shared", "shared", True)],
)
def test_a_writer_keeps_everybody_out_and_readers_only_writers(tmp_path, first, second, gets_in):
    context = multiprocessing.get_context("fork")
    go, inside = context.Event(), context.Event()
    # Forked before the lock is taken: a child that inherits the open directory would hold the lock as well.
    other = context.Process(target=enter, args=(second, str(tmp_path), go, inside), daemon=True)
    other.start()
    with getattr(_state_dir, first)(str(tmp_path)):
        go.set()
        # The one wait that cannot be avoided: that something does not happen shows only after a while.
        assert inside.wait(20 if gets_in else 0.3) is gets_in
    assert inside.wait(20)
    other.join(20)
    assert other.exitcode == 0


def test_behind_sudo_it_is_the_one_who_called_it(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    assert _state_dir.login_name() == "alice"
