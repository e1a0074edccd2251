"""Backups: the client, the manifest, the command lines, the consent."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _backup, _backup_programs
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Client
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

MANIFEST = _backup.Manifest(
    id="run-1",
    kind="full",
    whole=True,
    at="2026-05-04T03:02:01Z",
    size=10,
    sha256="ab" * 32,
    database="connectin",
    database_oid=16384,
    server_version="17.6",
    client_version="17.6",
    position=700,
    run_id="run-1",
    release_from="v1.2.0",
    release_to="v1.1.0",
    tables=({"schema": "public", "name": "posts", "rows": 4},),
    losses=(),
    migrations=(),
)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("pg_dump (PostgreSQL) 17.6 (Debian 17.6-0+deb13u1)", "17.6"),
        ("pg_dump (PostgreSQL) 15.14", "15.14"),
        ("pg_dump (PostgreSQL) 18beta1", "18"),
        ("Error: could not find pg_dump", ""),
        ("", ""),
    ],
)
def test_a_version_is_read_off_what_the_program_says(text, version):
    assert _backup.version_in(text) == version


def clients(*versions: str) -> list[Client]:
    return [Client(f"/usr/lib/postgresql/{version}/bin", version) for version in versions]


@pytest.mark.parametrize(
    ("there", "server", "chosen"),
    [
        (("15.1", "17.2", "16.9"), 16, "16.9"),
        (("15.1", "18.0", "17.2"), 16, "17.2"),
        (("15.1",), 16, None),
        ((), 16, None),
    ],
)
def test_the_client_of_the_servers_version_is_taken_else_the_next_newer_one(there, server, chosen):
    found = _backup.choose(clients(*there), server)
    assert (found and found.version) == chosen


def test_only_a_newer_client_is_warned_of():
    same, newer = clients("16.9", "17.2")
    assert _backup.client_warning(same, 16) == ""
    assert "postgresql-client-16" in _backup.client_warning(newer, 16)


def test_a_missing_client_is_refused_with_what_was_found_and_what_to_install():
    with pytest.raises(PrismaError) as caught:
        _backup.require_client(clients("15.1"), 17, "/usr/lib/postgresql/*/bin")
    assert caught.value.fields["code"] == "backup_client_missing"
    assert caught.value.fields["next"].startswith("apt-get install postgresql-client-17; ")
    assert "15.1 in /usr/lib/postgresql/15.1/bin" in caught.value.message


FACTS = {"bytes": 10**9, "free": 10**10, "pooled": False, "unreadable": []}


@pytest.mark.parametrize(
    ("facts", "codes"),
    [
        ({}, []),
        ({"free": 2 * 10**9}, ["backup_disk_full"]),
        ({"free": 2 * 10**9 + _backup.RESERVE}, []),
        ({"pooled": True}, ["backup_pooled"]),
        ({"unreadable": ["public.secret"]}, ["backup_forbidden"]),
        ({"free": 0, "pooled": True}, ["backup_disk_full", "backup_pooled"]),
    ],
)
def test_everything_that_keeps_a_backup_from_being_made_is_told_at_once(facts, codes):
    found = _backup.problems(clients("17.6"), 17, "PATH", {**FACTS, **facts}, "/var/backups")
    assert [problem["code"] for problem in found] == codes
    assert all(problem["next"] for problem in found)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (3_250_000_000, "3.2 GB"), (4 * 10**12, "4.0 TB")],
)
def test_a_size_is_told_in_its_largest_unit(number, text):
    assert _backup.size_text(number) == text


def test_a_connection_string_quotes_its_values_and_has_no_password():
    text = _backup.conninfo({"user": "o'brien \\", "password": "s3cret", "dbname": "connectin"}, 10)
    assert "user='o\\'brien \\\\'" in text and "dbname='connectin'" in text and "connect_timeout='10'" in text
    assert "s3cret" not in text and "password" not in text


def test_a_dump_of_tables_names_each_of_them_exactly():
    words = _backup.dump_arguments("dbname='x'", "0001-1", [("public", 'My "Posts"'), ("Other.one", "t")])
    assert '--table="public"."My ""Posts"""' in words and '--table="Other.one"."t"' in words
    assert "--strict-names" in words and "--snapshot=0001-1" in words
    assert not any(word.startswith("--table") for word in _backup.dump_arguments("", "s", None))


def test_a_client_in_a_container_gets_the_password_by_the_name_of_its_variable_alone():
    assert Client("", "17.6", "connectin-db-1").argv("pg_dump", ["--format=custom"]) == [
        "docker",
        "exec",
        "--interactive",
        "--env",
        "PGPASSWORD",
        "connectin-db-1",
        "pg_dump",
        "--format=custom",
    ]
    assert Client("/usr/lib/postgresql/17/bin", "17.6").argv("pg_restore") == ["/usr/lib/postgresql/17/bin/pg_restore"]


LISTING = """;
; Archive created at 2026-05-04 03:02:01 UTC
;
5; 2615 16400 SCHEMA - public app
6; 2615 16401 SCHEMA - shop app
4000; 0 0 ACL - SCHEMA public app
2; 3079 16402 EXTENSION - citext\x20
4001; 0 0 COMMENT - EXTENSION citext\x20
3; 6104 16500 PUBLICATION - p postgres
7; 6106 16501 PUBLICATION TABLE public p posts postgres
215; 1259 16403 TABLE public posts app
3300; 0 16403 TABLE DATA public posts app
"""


def test_a_restore_leaves_extensions_and_the_schemas_that_are_there_in_place():
    kept = [line.split("; ")[1] for line in _backup.without_kept(LISTING, ["public"]).splitlines() if line[:1] != ";"]
    assert kept == [
        "2615 16401 SCHEMA - shop app",
        "6106 16501 PUBLICATION TABLE public p posts postgres",
        "1259 16403 TABLE public posts app",
        "0 16403 TABLE DATA public posts app",
    ]


def test_what_a_program_complains_of_is_told_without_rows():
    text = _backup.error_text(
        "pg_restore: error: could not execute query: ERROR:  duplicate key\n"
        "DETAIL:  Key (email)=(ann@example.org) already exists.\nCommand was: ALTER TABLE x\n"
    )
    assert text == "could not execute query: ERROR:  duplicate key"
    assert _backup.error_text("") == "it gave no reason"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"COPY public.posts (id, title) FROM stdin;\n", (("public", "posts"), ("id", "title"))),
        (b'COPY "My.Shop"."a ""b""" ("Id", "x, y", z) FROM stdin;\n', (("My.Shop", 'a "b"'), ("Id", "x, y", "z"))),
        (b'COPY public."Old (Name)" (id) FROM stdin;\n', (("public", "Old (Name)"), ("id",))),
        ('COPY public."Größe" (id) FROM stdin;\n'.encode(), (("public", "Größe"), ("id",))),
        (b"SELECT pg_catalog.setval('public.posts_id_seq', 4, true);\n", None),
        (b"-- COPY public.posts (id) FROM stdin; \n", None),
        (b"\n", None),
    ],
)
def test_the_beginning_of_a_tables_rows_is_recognized(line, expected):
    assert _backup.copy_header(line) == expected


def test_a_manifest_is_what_it_was_after_it_was_written_and_read():
    marked = replace(MANIFEST, after={"at": "2026-05-04T04:00:00Z", "position": 710})
    assert _backup.parse(marked.as_text(), "full.json") == marked
    assert json.loads(marked.as_text())["file"] == "full.dump"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", MANIFEST.as_text().replace('"sha256"', '"sum"'), '{"v": 1, "tables": 3}']
)
def test_a_damaged_manifest_is_an_error_that_names_it(text):
    with pytest.raises(PrismaError, match="full.json"):
        _backup.parse(text, "full.json")


def test_a_manifest_of_another_format_is_not_guessed_at():
    with pytest.raises(PrismaError, match="another version"):
        _backup.parse(MANIFEST.as_text().replace('"v": 1', '"v": 2'), "full.json")


MARKED = replace(MANIFEST, after={"at": "2026-05-04T04:00:00Z", "position": 710, "quiet": True})
BUSY = replace(MANIFEST, after={"at": "2026-05-04T04:00:00Z", "position": 710, "quiet": False})


@pytest.mark.parametrize(
    ("manifest", "oid", "position", "confirm", "allowed"),
    [
        (MARKED, 16384, 710, "", True),
        (MARKED, 16384, 711, "", False),
        (BUSY, 16384, 710, "", False),
        (MARKED, 16384, 709, "", False),
        (MARKED, 99999, 710, "", False),
        (MANIFEST, 16384, 700, "", False),
        (MARKED, 16384, 711, "run-2", False),
        (MARKED, 16384, 711, "run-1", True),
        (MANIFEST, 16384, 700, "run-1", True),
    ],
)
def test_a_whole_restore_needs_a_consent_unless_nothing_was_written_since(manifest, oid, position, confirm, allowed):
    if allowed:
        _backup.require_consent(manifest, oid, position, confirm, list)
        return
    with pytest.raises(PrismaError) as caught:
        _backup.require_consent(manifest, oid, position, confirm, lambda: ["public.posts 5, then 4"])
    assert caught.value.fields["code"] == "restore_unconfirmed"
    assert "-e rollback_confirm_restore=run-1" in caught.value.message
    assert "public.posts 5, then 4" in caught.value.message


def test_tables_that_changed_are_told_with_both_numbers():
    now = {("public", "posts"): 5, ("public", "young"): 1}
    assert _backup.changed_tables(MANIFEST, now) == ["public.posts 5, then 4", "public.young 1, then not there"]
    assert _backup.changed_tables(MANIFEST, {}) == ["public.posts gone, then 4"]
    assert _backup.changed_tables(MANIFEST, {("public", "posts"): 4}) == []


def lost(kind: str, table: str = "posts", column: str = "") -> dict:
    return {"kind": kind, "schema": "public", "table": table, "column": column, "text": f"{kind} {table}"}


def test_losses_of_rows_and_columns_go_back_and_others_are_named():
    found, words = _backup.lost_tables(
        [
            lost("drop_table", "reactions"),
            lost("drop_column", column="subtitle"),
            lost("drop_column", column="score"),
            lost("truncate"),
            lost("narrow", column="title"),
            lost("unknown", ""),
        ]
    )
    assert found == {("public", "reactions"): {""}, ("public", "posts"): {"subtitle", "score", ""}}
    assert words == ["narrow posts", "unknown "]


def test_an_older_libpq_gets_a_file_with_the_systems_authorities():
    class Target:
        params = {"host": "db", "dbname": "connectin", "sslmode": "verify-full", "sslrootcert": "system"}

    class Database:
        target = Target

    text = _backup_programs.connection_string(Database, Client("/usr/lib/postgresql/15/bin", "15.1"), 10)
    assert "sslrootcert='/etc/" in text
    newer = _backup_programs.connection_string(Database, Client("/usr/lib/postgresql/17/bin", "17.1"), 10)
    assert "sslrootcert='system'" in newer
