# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _env_file as env


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TAG=v1", "v1"),
        ("export TAG=v1\n", "v1"),
        ("  TAG = v1  \n", "v1"),
        ("TAG: v1\n", "v1"),
        ('TAG="v1 # not a comment"\n', "v1 # not a comment"),
        ("TAG='v1' # a comment\n", "v1"),
        ("TAG=v1 # a comment\r\nB=2\r\n", "v1"),
        ("TAG=v1#part\n", "v1#part"),
        ("TAG= # not nothing\n", "# not nothing"),
        ("TAG=v1\t# part\n", "v1\t# part"),
        ("\ufeffTAG=v1\n", "v1"),
        ("TAG=\n", ""),
        ("TAG=old\nTAG=v1\n", "v1"),
        ('TAG=v1\nA="two\nTAG=inside\nlines"\n', "v1"),
        ('TAG=v1\nA="escaped \\" quote\nTAG=inside\n"\n', "v1"),
        ("TAG=v1\nA='escaped \\' quote\nTAG=inside\n'\n", "v1"),
        ("TAG=\tv1\n", "v1"),
        ("# TAG=v0\nTAG=v1", "v1"),
    ],
)
def test_a_value_is_read_as_compose_reads_it(text, value):
    # Each was given to Docker Compose 2.26.1, which read the same.
    assert env.find(text, "TAG").value == value


def test_a_key_in_a_comment_or_inside_a_quoted_value_is_not_found():
    assert env.find("# TAG=v1\nA='\nTAG=v1\n'\nMYTAG=v1\n", "TAG") is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A=1\r\nTAG=v2\r\nB=2\r\n", "A=1\r\nTAG=v1\r\nB=2\r\n"),
        ('TAG="v2" # web\n', 'TAG="v1" # web\n'),
        ("A=1\n export  TAG = 'v2'", "A=1\n export  TAG = 'v1'"),
        ("TAG=v3\nTAG=v2\n", "TAG=v3\nTAG=v1\n"),
        ("TAG=\nB=2\n", "TAG=v1\nB=2\n"),
        ("", "TAG=v1\n"),
        ("A=1\n", "A=1\nTAG=v1\n"),
        ("A=1\r\n", "A=1\r\nTAG=v1\r\n"),
        ("A=1", "A=1\nTAG=v1"),
    ],
)
def test_setting_a_value_keeps_every_other_character(before, after):
    assert env.set_value(before, "TAG", "v1") == after


def test_files_differ_by_name_and_never_by_value():
    assert env.differing_keys("A=1\nB=2\nC=3\n", "C=3\nB='other'\nD=4\n") == ["A", "B", "D"]
    assert env.differing_keys("A=1 # old\n", "A='1'\n") == []


def test_no_value_of_the_file_is_left_in_a_message():
    text = (
        'URL="postgresql://app:hunter2@db/x?schema=public"\nPIN=77\nKEY=-----BEGIN\nMULTI="first line\nsecond line"\n'
    )
    message = (
        "cannot use postgresql://app:hunter2@db/x?schema=public with 77, hunter2, second line, -----BEGIN; try 7777"
    )
    assert env.redacted(message, text) == "cannot use *** with ***, ***, ***, ***; try 7777"


@pytest.mark.parametrize(
    "message",
    [
        'failed to read /srv/app/.env: line 3: unterminated quoted value "trala',
        'failed to read /srv/app/.env: unexpected character "&" in variable name near "trala=1\\nMORE=x"',
    ],
)
def test_what_compose_quotes_from_a_broken_file_is_cut_off(message):
    assert "trala" not in env.redacted(message, 'A="trala\n')
    assert env.redacted(message, "").startswith("failed to read /srv/app/.env: ")
