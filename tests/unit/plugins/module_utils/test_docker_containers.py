# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from ansible_collections.connectin.rollback.plugins.module_utils import _docker_containers as docker


def frame(text: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def test_the_text_of_a_log_is_taken_out_of_its_frames():
    assert docker.unframed(frame(b"one\n") + frame(b"two\n", 2)) == "one\ntwo\n"


def test_a_log_of_a_terminal_has_no_frames_and_a_cut_one_keeps_what_is_there():
    assert docker.unframed(b"plain text") == "plain text"
    assert docker.unframed(frame(b"one\n") + frame(b"two\n")[:-2]) == "one\ntw"
