"""The SQL that puts rows and values back; what it does to real rows is tested on PostgreSQL."""

from __future__ import annotations

from ansible_collections.connectin.rollback.plugins.module_utils import _backup_merge as merging
from ansible_collections.connectin.rollback.plugins.module_utils._backup_merge import Column, Merge, Reference, Table

POSTS = ("public", "posts")


def table(name: str = "reactions", **changes) -> Table:
    values = {
        "relation": ("public", name),
        "columns": (Column("id", "integer"), Column("post_id", "integer"), Column("twice", "integer", generated=True)),
        "key": ("id",),
        **changes,
    }
    return Table(**values)


def merge(described: Table | None = None, dumped=("id", "post_id"), others=None) -> Merge:
    return Merge(described or table(), dumped, "pg_temp.old", others or {})


def test_only_columns_that_are_there_and_not_generated_are_written():
    made = merge(dumped=("id", "post_id", "twice", "gone"))
    assert (made.columns, made.gone) == (["id", "post_id"], ["gone"])
    assert made.insert().startswith('INSERT INTO "public"."reactions" ("id", "post_id") OVERRIDING SYSTEM VALUE ')


def test_a_row_is_only_inserted_where_none_has_its_key():
    assert 'NOT EXISTS (SELECT FROM "public"."reactions" t WHERE t."id" = d."id"::integer)' in merge().insert()
    assert merge().insert().endswith("ON CONFLICT DO NOTHING")


def test_without_a_key_rows_only_go_into_an_empty_table():
    keyless = merge(table(key=()))
    assert not keyless.matchable
    assert 'NOT EXISTS (SELECT FROM "public"."reactions" t WHERE true)' in keyless.insert()


def test_a_key_that_the_dump_lacks_tells_no_rows_apart():
    assert not merge(table(key=("id", "kind"), columns=(Column("id", "integer"), Column("kind", "text")))).matchable


def test_a_row_whose_parent_is_gone_is_not_inserted_and_one_without_a_parent_is():
    made = merge(table(references=(Reference(("post_id",), POSTS, ("id",)),)))
    assert (
        'd."post_id" IS NULL OR EXISTS (SELECT FROM "public"."posts" p WHERE p."id" = d."post_id"::integer)'
        in made.insert()
    )


def test_a_parent_may_be_among_the_rows_that_go_back_too():
    itself = merge(table(references=(Reference(("post_id",), ("public", "reactions"), ("id",)),)))
    assert 'EXISTS (SELECT FROM pg_temp.old o WHERE o."id" = d."post_id")' in itself.insert()
    other = merge(table(references=(Reference(("post_id",), POSTS, ("id",)),)), others={POSTS: "pg_temp.posts"})
    assert "EXISTS (SELECT FROM pg_temp.posts o" in other.count_rows()


def test_a_value_is_filled_where_it_is_null_or_what_adding_the_column_gave_every_row():
    plain = merge(table(columns=(Column("id", "integer"), Column("note", "text"))), dumped=("id", "note"))
    assert plain.fill("note").endswith('(t."note" IS NULL)')
    added = merge(table(columns=(Column("id", "integer"), Column("note", "text", added="it's"))), dumped=("id", "note"))
    assert added.fill("note").endswith("(t.\"note\" IS NULL OR t.\"note\"::text = 'it''s')")


def test_a_sequence_is_only_ever_advanced():
    (statement,) = merge(table(sequences=(("id", 'public."Reactions_id_seq"'),))).advance()
    assert "setval('public.\"Reactions_id_seq\"', newest)" in statement
    assert "WHERE newest > at.last_value" in statement


def test_tables_come_after_those_they_refer_to_and_a_circle_ends():
    to_posts = Reference(("post_id",), POSTS, ("id",))
    to_itself = Reference(("post_id",), ("public", "reactions"), ("id",))
    reactions = table(references=(to_posts, to_itself))
    posts = table("posts")
    assert merging.parents_first([reactions, posts]) == [posts, reactions]
    round_about = table("posts", references=(Reference(("id",), ("public", "reactions"), ("id",)),))
    assert merging.parents_first([reactions, round_about]) == [reactions, round_about]
