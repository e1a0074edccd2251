"""What a rollback would destroy, counted in the database, and the consent it needs."""

from __future__ import annotations

import pytest


def lossy(stack, up, down, *data):
    stack.apply(
        "20260101_base", "CREATE TABLE posts (id int PRIMARY KEY, body text, likes bigint);", "DROP TABLE posts;"
    )
    stack.apply("20260102_x", up, down)
    for statement in data:
        stack.sql(statement)
    return stack


POSTS = "INSERT INTO posts (id, body) SELECT n, CASE WHEN n < 3 THEN 'x' END FROM generate_series(1, 5) n"
FILLED = "UPDATE posts SET extra = 'y' WHERE id > 3"
NEW = "CREATE TABLE extra (id int);"
ADD = "ALTER TABLE posts ADD COLUMN extra text;"
CASES = {
    "an empty table": (NEW, "DROP TABLE extra;", [], []),
    "a table with rows": (
        NEW,
        "DROP TABLE extra;",
        ["INSERT INTO extra VALUES (1), (2)"],
        [("drop_table", "extra", 2)],
    ),
    "a qualified table": (
        NEW,
        'DROP TABLE "public"."extra";',
        ["INSERT INTO extra VALUES (1)"],
        [("drop_table", "public.extra", 1)],
    ),
    "a table that is not there": (NEW, "DROP TABLE IF EXISTS gone; DROP TABLE extra;", [], []),
    "a column with values": (
        ADD,
        "ALTER TABLE posts DROP COLUMN extra;",
        [POSTS, FILLED],
        [("drop_column", "posts.extra", 2)],
    ),
    "a column that is NULL": (ADD, "ALTER TABLE posts DROP COLUMN extra;", [POSTS], []),
    "a renamed table": (
        NEW,
        "ALTER TABLE extra RENAME TO old; DROP TABLE public.old;",
        ["INSERT INTO extra VALUES (1)"],
        [("drop_table", "public.old", 1)],
    ),
    "a renamed column": (
        ADD,
        "ALTER TABLE posts RENAME extra TO old; ALTER TABLE posts DROP old;",
        [POSTS, FILLED],
        [("drop_column", "posts.old", 2)],
    ),
    "a table of the script": ("SELECT 1;", "CREATE TABLE t AS SELECT 1 AS a; DROP TABLE t;", [], []),
    "a column of the script": (
        "SELECT 1;",
        "ALTER TABLE posts ADD c int; UPDATE posts SET c = 1; ALTER TABLE posts DROP c;",
        [POSTS],
        [],
    ),
    "truncate": ("SELECT 1;", "TRUNCATE posts;", [POSTS], [("truncate", "posts", 5)]),
    "delete some": (
        "SELECT 1;",
        "DELETE FROM posts p WHERE p.id > 3 AND lower(body) IS NULL;",
        [POSTS],
        [("delete", "posts", 2)],
    ),
    "delete none": ("SELECT 1;", "DELETE FROM posts WHERE id > 99;", [POSTS], []),
    "delete with another table": (
        "SELECT 1;",
        "DELETE FROM posts USING posts q WHERE posts.id = q.id;",
        [POSTS],
        [("delete", "posts", None)],
    ),
    "delete by a function": (
        "SELECT 1;",
        "DELETE FROM posts WHERE random() < 2;",
        [POSTS],
        # what a function does besides cannot be read
        [("delete", "posts", None), ("unknown", "", None)],
    ),
    "update": ("SELECT 1;", "UPDATE posts SET body = '' WHERE body IS NOT NULL;", [POSTS], [("update", "posts", 2)]),
    "another type": (
        "SELECT 1;",
        "ALTER TABLE posts ALTER likes TYPE int;",
        [POSTS, "UPDATE posts SET likes = 1"],
        [("narrow", "posts.likes", None)],
    ),
    "another type of nothing": ("SELECT 1;", "ALTER TABLE posts ALTER likes TYPE int;", [POSTS], []),
    "a DO block": ("SELECT 1;", "DO $$ BEGIN DELETE FROM posts; END $$;", [POSTS], [("unknown", "", None)]),
    "a WITH part": (
        "SELECT 1;",
        "WITH d AS (DELETE FROM posts RETURNING 1) SELECT FROM d;",
        [POSTS],
        [("unknown", "", None)],
    ),
    "a schema with its tables": (
        "CREATE SCHEMA s; CREATE TABLE s.t ();",
        "DROP SCHEMA s CASCADE;",
        [],
        [("unknown", "", None)],
    ),
    "an index and a type": (
        "CREATE INDEX i ON posts (body); CREATE TYPE e AS ENUM ('a');",
        "DROP INDEX i; DROP TYPE e;",
        [POSTS],
        [],
    ),
    "after a search path": (
        NEW,
        "SET search_path = public; DROP TABLE extra;",
        ["INSERT INTO extra VALUES (1)"],
        [("drop_table", "extra", None)],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_loss_is_counted_and_needs_consent(stack, kind):
    up, down, data, expected = CASES[kind]
    lossy(stack, up, down, *data)
    before = stack.state()
    loss = stack.info()["migrations"][1]["loss"]
    assert [(each["kind"], each["object"], each["count"]) for each in loss] == expected
    result = stack.down("20260102_x", target="v1")
    if expected:
        assert result["failed"] and "data would be lost" in result["msg"] and result["plan"][0]["loss"] == loss
        assert stack.state() == before
        result = stack.down("20260102_x", target="v1", confirm_data_loss="v1")
    assert result["changed"], result


def test_rows_that_a_delete_takes_along_are_of_unknown_number(stack):
    lossy(
        stack,
        "CREATE TABLE notes (post_id int REFERENCES posts ON DELETE CASCADE);",
        "DELETE FROM posts;",
        POSTS,
    )
    assert [(each["object"], each["count"]) for each in stack.info()["migrations"][1]["loss"]] == [
        ("posts", 5),
        ("notes", None),
    ]


@pytest.mark.parametrize("confirmed", ["", "v2", "yes"])
def test_only_the_targets_own_name_is_consent(stack, confirmed):
    lossy(stack, NEW, "DROP TABLE extra;", "INSERT INTO extra VALUES (1)")
    before = stack.state()
    for check in (True, False):
        result = stack.down("20260102_x", target="v1", confirm_data_loss=confirmed, check=check)
        assert result["failed"] and "confirm_data_loss=v1" in result["msg"] and "1 row" in result["msg"]
    assert stack.state() == before


def test_no_target_and_no_confirmation_is_no_consent(stack):
    lossy(stack, NEW, "DROP TABLE extra;", "INSERT INTO extra VALUES (1)")
    assert stack.down("20260102_x")["failed"] and stack.tables() == ["extra", "posts"]


def test_row_security_hides_no_row_from_the_count(stack):
    lossy(stack, NEW, "DROP TABLE extra;", "INSERT INTO extra VALUES (1)")
    stack.sql("ALTER TABLE extra ENABLE ROW LEVEL SECURITY; ALTER TABLE extra FORCE ROW LEVEL SECURITY")
    (loss,) = stack.info()["migrations"][1]["loss"]
    assert loss["count"] is None and "row-level security" in loss["text"]


def test_the_newer_script_of_the_same_plan_decides_what_a_table_is_called_now(stack):
    lossy(
        stack,
        "ALTER TABLE posts RENAME TO articles;",
        "ALTER TABLE articles RENAME TO posts;",
    )
    stack.sql(POSTS.replace("posts", "articles"))
    result = stack.down("20260102_x", "20260101_base", target="v1")
    assert [(each["object"], each["count"]) for each in result["plan"][1]["loss"]] == [("posts", 5)]


def test_without_pglast_nothing_counts_as_additive_and_everything_as_loss(stack):
    lossy(stack, ADD, "BEGIN; ALTER TABLE posts DROP COLUMN extra; COMMIT;")
    result = stack.info(without=("pglast",))
    assert result["parser"] == ""
    migration = result["migrations"][1]
    assert not migration["additive"] and "pglast" in migration["reasons"][0]
    assert [(each["kind"], each["count"]) for each in migration["loss"]] == [("unknown", None)]
    assert stack.down("20260102_x", target="v1", without=("pglast",))["failed"]
    assert stack.down("20260102_x", target="v1", confirm_data_loss="v1", without=("pglast",))["changed"]
    assert stack.columns("posts") == ["id", "body", "likes"]
