"""Backups of a real database: made, damaged, killed, and put back; looked at with eyes of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .conftest import CHECKOUT, DISTRIBUTION, NEWEST, PASSWORD
from .scene import wait_until

BINARIES = f"/usr/lib/postgresql/{DISTRIBUTION}/bin"
BASE = "20260101_base", "CREATE TABLE posts (id serial PRIMARY KEY, title text NOT NULL);", "DROP TABLE posts;"
# The packages of npm have the server without its client programs.
of_distribution = pytest.mark.parametrize(
    "programs", [DISTRIBUTION], indirect=True, scope="session", ids=lambda version: f"postgresql-{version}"
)
of_newest = pytest.mark.parametrize(
    "programs", [NEWEST], indirect=True, scope="session", ids=lambda version: f"postgresql-{version}"
)


class Backups:
    """One folder of backups of one database."""

    def __init__(self, stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder

    def run(self, **args):
        args.setdefault("dest", str(self.folder))
        return self.stack.run("database_backup", **args)

    def losses(self, *names: str) -> list[dict]:
        """What these migrations would lose, as the plan says it."""
        found = self.stack.info()["migrations"]
        return [loss for migration in found if migration["name"] in names for loss in migration["loss"]]

    def roll_back(self, *names: str) -> None:
        """As the playbook does it: both dumps, the down scripts, the mark."""
        losses = self.losses(*names)
        full = self.run(release_from="v1.2.0", release_to="v1.1.0")
        lost = self.run(losses=losses, fresh=True, require_no_sessions=True, release_from="v1.2.0")
        assert full["changed"] and lost["changed"], (full, lost)
        down = self.stack.down(*names, target="v1.1.0", confirm_data_loss="v1.1.0")
        assert down["changed"], down
        assert self.run(state="marked")["changed"]

    def deploy(self, *migrations: tuple[str, str]) -> None:
        """As `migrate deploy` does it: the migrations run again, with rows of their own."""
        for name, up in migrations:
            self.stack.sql(up)
            self.stack.row(name, up)

    def manifest(self, kind: str) -> dict:
        return json.loads((self.folder / f"{kind}.json").read_text())


@pytest.fixture
def backups(stack, tmp_path):
    return Backups(stack, tmp_path / "backups" / "20260504T030201Z-7c1e")


def with_posts(backups, *migrations):
    stack = backups.stack
    stack.apply(*BASE)
    stack.sql("INSERT INTO posts (title) SELECT 'post ' || n FROM generate_series(1, 4) n")
    for name, up, down in migrations:
        stack.apply(name, up, down)
    return stack


REACTIONS = (
    "20260102_reactions",
    "CREATE TYPE kind AS ENUM ('like', 'wow');\n"
    "CREATE TABLE reactions (id serial PRIMARY KEY, post_id int NOT NULL REFERENCES posts ON DELETE CASCADE, "
    "kind kind NOT NULL, tags text[], twice int GENERATED ALWAYS AS (id * 2) STORED);",
    "DROP TABLE reactions; DROP TYPE kind;",
)
REACTED = (
    "INSERT INTO reactions (post_id, kind, tags) VALUES (1, 'like', NULL), (2, 'wow', '{\"a\tb\",\"c\\\\n\"}'), "
    "(3, 'like', '{}')"
)
SUBTITLE = (
    "20260102_subtitle",
    "ALTER TABLE posts ADD COLUMN subtitle text, ADD COLUMN score int NOT NULL DEFAULT 7;",
    "ALTER TABLE posts DROP COLUMN subtitle, DROP COLUMN score;",
)


@of_distribution
def test_a_dump_is_whole_private_and_described_by_its_manifest(backups):
    with_posts(backups, REACTIONS).sql(REACTED)

    result = backups.run(release_from="v1.2.0", release_to="v1.1.0", run_id="run-7")

    dump = backups.folder / "full.dump"
    assert result["changed"] and result["backup"]["file"] == str(dump)
    assert result["backup"]["sha256"] == hashlib.sha256(dump.read_bytes()).hexdigest()
    manifest = backups.manifest("full")
    assert manifest["size"] == dump.stat().st_size and manifest["sha256"] == result["backup"]["sha256"]
    assert {table["name"]: table["rows"] for table in manifest["tables"]} == {
        "_prisma_migrations": 2,
        "posts": 4,
        "reactions": 3,
    }
    assert [row["name"] for row in manifest["migrations"]] == [BASE[0], REACTIONS[0]]
    assert (manifest["id"], manifest["run_id"]) == (backups.folder.name, "run-7")
    assert (manifest["release_from"], manifest["release_to"]) == ("v1.2.0", "v1.1.0")
    assert manifest["client_version"].split(".")[0] == manifest["server_version"].split(".")[0] == DISTRIBUTION
    assert [stat.S_IMODE(path.stat().st_mode) for path in (backups.folder, dump, backups.folder / "full.json")] == [
        0o700,
        0o600,
        0o600,
    ]
    assert PASSWORD not in (backups.folder / "full.json").read_text()
    listed = subprocess.run([f"{BINARIES}/pg_restore", "--list", dump], capture_output=True, text=True, check=True)
    assert "TABLE DATA public reactions" in listed.stdout


@of_distribution
def test_check_and_real_then_check_and_real_again(backups):
    with_posts(backups)
    predicted = backups.run(check=True)
    assert not backups.folder.exists()
    done = backups.run()
    before = (backups.folder / "full.dump").stat().st_mtime_ns
    checked_again, again = backups.run(check=True), backups.run()
    assert [each["changed"] for each in (predicted, done, checked_again, again)] == [True, True, False, False]
    assert predicted.keys() == done.keys() == checked_again.keys() == again.keys()
    assert (backups.folder / "full.dump").stat().st_mtime_ns == before
    listed = backups.stack.run("database_backup_info", path=str(backups.folder.parent))
    assert [each["id"] for each in listed["backups"]] == [backups.folder.name]
    assert listed["backups"][0]["dumps"][0]["sha256"] == done["backup"]["sha256"]


@of_distribution
def test_only_the_tables_that_lose_something_are_dumped_again_and_again_after_a_write(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    losses = backups.losses(REACTIONS[0])

    first = backups.run(losses=losses, fresh=True)
    assert [table["name"] for table in first["backup"]["tables"]] == ["reactions"]
    assert first["backup"]["whole"] is False
    assert not backups.run(losses=losses, fresh=True)["changed"]
    stack.sql("INSERT INTO reactions (post_id, kind) VALUES (4, 'wow')")
    second = backups.run(losses=losses, fresh=True)

    assert second["changed"] and second["backup"]["tables"][0]["rows"] == 4


@of_distribution
def test_what_cannot_be_read_is_dumped_whole(backups):
    stack = with_posts(backups, ("20260102_x", "SELECT 1;", "DO $$ BEGIN DELETE FROM posts; END $$;"))
    losses = backups.losses("20260102_x")
    assert [loss["kind"] for loss in losses] == ["unknown"]
    result = backups.run(losses=losses)
    assert result["backup"]["whole"] is True
    assert {table["name"] for table in result["backup"]["tables"]} == {"_prisma_migrations", "posts"}
    assert stack.down("20260102_x", target="v1", confirm_data_loss="v1")["changed"]
    refused = backups.run(state="restored")
    assert refused["failed"] and refused["code"] == "restore_nothing" and "whose effect" not in refused["msg"]
    assert "a DO block" in refused["msg"] and "rollback_backup_restore=all" in refused["msg"]


@of_distribution
def test_a_renamed_quoted_and_partitioned_table_is_dumped_under_the_name_it_has(backups):
    stack = with_posts(
        backups,
        (
            "20260102_parts",
            'CREATE TABLE "My ""Events" (at date NOT NULL, n int) PARTITION BY RANGE (at);'
            "CREATE TABLE events_1 PARTITION OF \"My \"\"Events\" FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
            'CREATE TABLE "Old.Name" (id int PRIMARY KEY);',
            'DROP TABLE "My ""Events"; ALTER TABLE "Old.Name" RENAME TO young; DROP TABLE young;',
        ),
    )
    stack.sql("INSERT INTO events_1 VALUES ('2026-01-02', 1), ('2026-01-03', 2)")
    stack.sql('INSERT INTO "Old.Name" VALUES (1)')
    result = backups.run(losses=backups.losses("20260102_parts"))
    assert not result.get("failed"), result
    assert {table["name"]: table["rows"] for table in result["backup"]["tables"]} == {"events_1": 2, "Old.Name": 1}


@of_distribution
def test_a_dropped_table_comes_back_into_the_one_that_a_deploy_made_again(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    before = stack.sql("SELECT * FROM reactions ORDER BY id")
    backups.roll_back(REACTIONS[0])
    assert "reactions" not in stack.tables()
    early = backups.run(state="restored")
    assert early["failed"] and early["code"] == "restore_schema" and "deploy v1.2.0" in early["next"]
    backups.deploy(REACTIONS[:2])

    predicted = backups.run(state="restored", check=True)
    assert stack.sql("SELECT count(*) FROM reactions") == [(0,)]
    done = backups.run(state="restored")

    assert not done.get("failed"), done
    assert done["changed"] and predicted["restored"] == done["restored"] == {"public.reactions": 3}
    assert done["left"] == [] and stack.sql("SELECT * FROM reactions ORDER BY id") == before
    again = backups.run(state="restored")
    assert not again["changed"] and again["restored"] == {"public.reactions": 0} and again["left"] == []
    # The next row gets a key of its own.
    stack.sql("INSERT INTO reactions (post_id, kind) VALUES (1, 'wow')")
    assert stack.sql("SELECT max(id) FROM reactions") == [(4,)]


@of_distribution
def test_rows_written_since_are_kept_and_what_cannot_go_back_is_named(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    backups.roll_back(REACTIONS[0])
    stack.sql("DELETE FROM posts WHERE id = 3")
    backups.deploy(REACTIONS[:2])
    stack.sql("INSERT INTO reactions (post_id, kind) VALUES (4, 'wow')")

    done = backups.run(state="restored")

    assert done["restored"] == {"public.reactions": 1} and done["kept"] == {"public.reactions": 1}
    assert stack.sql("SELECT id, post_id, kind::text FROM reactions ORDER BY id") == [(1, 4, "wow"), (2, 2, "wow")]
    assert len(done["left"]) == 2
    assert any("the row they refer to is gone" in text for text in done["left"])
    assert any("that one was kept" in text for text in done["left"])


@of_distribution
def test_rows_go_back_over_the_older_driver_too(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    before = stack.sql("SELECT * FROM reactions ORDER BY id")
    backups.roll_back(REACTIONS[0])
    backups.deploy(REACTIONS[:2])
    done = backups.run(state="restored", without=("psycopg",))
    assert not done.get("failed"), done
    assert stack.sql("SELECT * FROM reactions ORDER BY id") == before


TREE = (
    "20260102_tree",
    "CREATE TABLE comments (id int PRIMARY KEY, post_id int REFERENCES posts, parent int REFERENCES comments);"
    'CREATE TABLE "_LikedBy" ("A" int NOT NULL REFERENCES comments, "B" int NOT NULL REFERENCES posts);'
    'CREATE UNIQUE INDEX "_LikedBy_AB" ON "_LikedBy" ("A", "B");'
    "CREATE TABLE notes (text text);",
    'DROP TABLE "_LikedBy"; DROP TABLE comments; DROP TABLE notes;',
)


@of_distribution
def test_tables_that_refer_to_each_other_and_to_themselves_come_back_with_a_key_of_any_kind(backups):
    stack = with_posts(backups, TREE)
    stack.sql("INSERT INTO comments VALUES (1, 1, 2), (2, 1, NULL), (3, NULL, 1)")
    stack.sql('INSERT INTO "_LikedBy" VALUES (1, 2), (3, 4)')
    stack.sql("INSERT INTO notes VALUES ('a'), ('a')")
    tables = ("comments", "_LikedBy", "notes")

    def rows():
        return [stack.sql(f'SELECT t::text FROM "{table}" t ORDER BY 1') for table in tables]

    before = rows()
    backups.roll_back(TREE[0])
    backups.deploy(TREE[:2])
    predicted = backups.run(state="restored", check=True)
    done = backups.run(state="restored")
    assert not done.get("failed"), done
    assert (
        predicted["restored"]
        == done["restored"]
        == {
            "public.comments": 3,
            "public._LikedBy": 2,
            "public.notes": 2,
        }
    )
    assert rows() == before
    again = backups.run(state="restored")
    assert not again["changed"] and any("no key" in text for text in again["left"])
    assert rows() == before


@of_distribution
def test_dropped_columns_are_filled_where_nothing_was_written_since(backups):
    stack = with_posts(backups, SUBTITLE)
    stack.sql("UPDATE posts SET subtitle = 'sub ' || id, score = id * 10 WHERE id < 4")
    backups.roll_back(SUBTITLE[0])
    assert stack.columns("posts") == ["id", "title"]
    stack.sql("INSERT INTO posts (title) VALUES ('young')")
    stack.sql("DELETE FROM posts WHERE id = 4")
    backups.deploy(SUBTITLE[:2])
    stack.sql("UPDATE posts SET subtitle = 'mine', score = 99 WHERE id = 2")

    done = backups.run(state="restored")

    assert not done.get("failed"), done
    assert stack.sql("SELECT id, subtitle, score FROM posts ORDER BY id") == [
        (1, "sub 1", 10),
        (2, "mine", 99),
        (3, "sub 3", 30),
        (5, None, 7),
    ]
    assert done["restored"] == {"public.posts.subtitle": 2, "public.posts.score": 2}
    assert done["kept"] == {"public.posts.subtitle": 1, "public.posts.score": 1}
    assert not backups.run(state="restored")["changed"]


@of_distribution
def test_a_truncated_table_gets_its_rows_back_beside_those_written_since(backups):
    stack = with_posts(backups, ("20260102_x", "SELECT 1;", "TRUNCATE posts;"))
    backups.roll_back("20260102_x")
    assert stack.sql("SELECT count(*) FROM posts") == [(0,)]
    stack.sql("INSERT INTO posts (title) VALUES ('young')")
    done = backups.run(state="restored")
    assert done["restored"] == {"public.posts": 4}
    assert stack.sql("SELECT id, title FROM posts ORDER BY id") == [
        *[(n, f"post {n}") for n in range(1, 5)],
        (5, "young"),
    ]


@of_distribution
def test_the_whole_database_comes_back_without_consent_as_long_as_nothing_was_written(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    before = stack.state()
    backups.roll_back(REACTIONS[0])
    assert stack.state() != before
    predicted = backups.run(state="restored", what="all", check=True)
    assert predicted["changed"] and "reactions" not in stack.tables()

    done = backups.run(state="restored", what="all")

    assert not done.get("failed"), done
    assert stack.state() == before
    assert stack.live() == [BASE[0], REACTIONS[0]]


@of_distribution
def test_once_the_target_has_written_the_whole_database_comes_back_only_with_consent(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    before = stack.state()
    backups.roll_back(REACTIONS[0])
    stack.sql("INSERT INTO posts (title) VALUES ('young')")
    stack.sql("CREATE TABLE since (id int PRIMARY KEY)")
    written = stack.state()

    for confirm in ("", "v1.1.0"):
        refused = backups.run(state="restored", what="all", confirm=confirm)
        assert refused["failed"] and refused["code"] == "restore_unconfirmed"
        assert f"rollback_confirm_restore={backups.folder.name}" in refused["msg"]
        assert "public.posts 5, then 4" in refused["msg"]
        assert stack.state() == written
    done = backups.run(state="restored", what="all", confirm=backups.folder.name)

    assert not done.get("failed"), done
    stack.sql("DROP TABLE since")
    assert stack.state() == before
    assert any("public.since is younger" in text for text in done["left"])


@of_distribution
def test_statistics_that_autovacuum_wrote_cannot_be_told_from_rows_and_the_refusal_says_so(backups):
    stack = with_posts(backups, REACTIONS)
    backups.roll_back(REACTIONS[0])
    rolled_back = stack.state()
    stack.sql("ANALYZE posts")
    refused = backups.run(state="restored", what="all")
    assert refused["failed"] and refused["code"] == "restore_unconfirmed" and "autovacuum" in refused["msg"]
    assert stack.state() == rolled_back
    assert backups.run(state="restored", what="all", confirm=backups.folder.name)["changed"]


@of_distribution
def test_a_rollback_whose_end_nobody_noted_needs_consent_too(backups):
    with_posts(backups)
    backups.run()
    refused = backups.run(state="restored", what="all")
    assert refused["failed"] and "nobody noted how the rollback ended" in refused["msg"]


@of_distribution
def test_the_whole_database_is_not_taken_back_under_a_connected_writer(backups):
    stack = with_posts(backups)
    backups.run()
    stack.connect(application_name="api")
    before = stack.state()
    refused = backups.run(state="restored", what="all", confirm=backups.folder.name)
    assert refused["failed"] and refused["code"] == "writers_connected" and "api" in refused["msg"]
    assert stack.state() == before


@of_distribution
def test_the_writers_have_to_be_gone_before_the_second_dump(backups):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    losses = backups.losses(REACTIONS[0])
    writer = stack.connect(application_name="api")
    refused = backups.run(losses=losses, require_no_sessions=True, sessions_wait=0.5)
    assert refused["failed"] and "api" in refused["msg"] and not backups.folder.exists()
    writer.close()
    assert backups.run(losses=losses, require_no_sessions=True)["changed"]


@of_distribution
@pytest.mark.parametrize("what", ["all", "lost"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_dump_is_found_out_before_anything_is_touched(backups, what, damage):
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    backups.roll_back(REACTIONS[0])
    backups.deploy(REACTIONS[:2])
    before = stack.state()
    dump = backups.folder / ("full.dump" if what == "all" else "lost.dump")
    content = dump.read_bytes()
    if damage == "gone":
        dump.unlink()
    else:
        dump.write_bytes(content[:-20] if damage == "cut" else content[:-20] + b"\0" * 20)

    refused = backups.run(state="restored", what=what, confirm=backups.folder.name)

    assert refused["failed"] and refused["code"] == "backup_damaged", refused
    assert stack.state() == before
    if damage == "cut":
        listed = backups.stack.run("database_backup_info", path=str(backups.folder.parent))
        assert "bytes, not" in str(listed["backups"][0]["problems"])
    # It is made again rather than believed.
    assert backups.run()["changed"] is (what == "all")


def slow(backups):
    """pg_dump that waits inside the dump: a table is held by somebody else."""
    blocker = backups.stack.connect()
    blocker.execute("BEGIN")
    blocker.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
    return blocker


def processes() -> list[tuple[str, str]]:
    """Process id and command line of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((path.name, (path / "cmdline").read_text(errors="replace").replace("\0", " ")))
    return found


def of_dump(backups) -> list[str]:
    mark = f"port='{backups.stack.port}'"
    return [pid for pid, line in processes() if "pg_dump" in line and mark in line]


@of_distribution
def test_the_password_is_on_no_command_line_while_the_dump_runs(backups):
    with_posts(backups)
    blocker = slow(backups)
    answer = {}
    thread = threading.Thread(target=lambda: answer.update(backups.run(tables=["posts"])))
    thread.start()
    wait_until(lambda: of_dump(backups))
    seen = "".join(line for _pid, line in processes())
    blocker.execute("ROLLBACK")
    thread.join()
    assert answer["changed"], answer
    assert "--dbname=" in seen and PASSWORD not in seen and backups.stack.url not in seen


@of_distribution
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_a_dump_that_is_killed_leaves_no_dump_and_no_process_behind(backups, number):
    with_posts(backups)
    before = backups.run()
    dump = backups.folder / "full.dump"
    content = dump.read_bytes()
    backups.stack.sql("INSERT INTO posts (title) VALUES ('more')")
    blocker = slow(backups)
    request = {"ANSIBLE_MODULE_ARGS": {"database_url": backups.stack.url, "dest": str(backups.folder), "fresh": True}}
    module = subprocess.Popen(
        [sys.executable, "-c", START, str(CHECKOUT / "plugins/modules/database_backup.py"), json.dumps(request)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "collections")},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: of_dump(backups))
    module.send_signal(number)
    if number == signal.SIGTERM:
        assert "Interrupted" in module.communicate(timeout=20)[0]
        assert sorted(path.name for path in backups.folder.iterdir()) == ["full.dump", "full.json"]
    module.wait(timeout=20)
    blocker.execute("ROLLBACK")
    wait_until(lambda: not of_dump(backups))
    # The dump from before is what it was, and the next one leaves nothing of the killed one.
    assert dump.read_bytes() == content and backups.manifest("full")["sha256"] == before["backup"]["sha256"]
    assert backups.run(fresh=True)["changed"]
    assert sorted(path.name for path in backups.folder.iterdir()) == ["full.dump", "full.json"]


START = (
    "import json, runpy, sys; from ansible.module_utils import basic; "
    "basic._ANSIBLE_ARGS = sys.argv[2].encode(); basic._ANSIBLE_PROFILE = 'legacy'; "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)


@of_distribution
def test_a_disk_that_is_full_is_named_and_leaves_nothing(backups):
    with_posts(backups).sql("CREATE TABLE big AS SELECT md5(n::text) AS noise FROM generate_series(1, 60000) n")
    backups.folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", backups.folder], check=True)
    try:
        refused = backups.run()
        left = list(backups.folder.iterdir())
    finally:
        subprocess.run(["umount", backups.folder], check=True)
    assert refused["failed"] and "No space left" in refused["msg"] and "rollback_backup_dir" in refused["msg"]
    assert left == []


@of_distribution
def test_the_url_may_be_that_of_a_project_of_prisma(backups, tmp_path):
    with_posts(backups)
    project = tmp_path / "api"
    (project / "prisma").mkdir(parents=True)
    source = 'datasource db {\n  provider = "postgresql"\n  url = env("DATABASE_URL")\n}\n'
    (project / "prisma" / "schema.prisma").write_text(source)
    (project / ".env").write_text(f"DATABASE_URL={backups.stack.url}\n")
    result = backups.run(project=str(project), database_url=None)
    assert result.get("changed"), result


@of_newest
def test_a_client_older_than_the_server_is_refused_with_the_package_to_install(backups):
    with_posts(backups)
    refused = backups.run(client_dir=BINARIES)
    assert refused["failed"] and refused["code"] == "backup_client_missing"
    assert f"apt-get install postgresql-client-{NEWEST}" in refused["next"]
    assert not backups.folder.exists()


@of_distribution
def test_a_folder_without_the_client_is_refused(backups, tmp_path):
    with_posts(backups)
    refused = backups.run(client_dir=str(tmp_path))
    assert refused["failed"] and refused["code"] == "backup_client_missing" and str(tmp_path) in refused["msg"]


@of_distribution
def test_a_container_has_the_client_and_the_dump_comes_to_the_host(backups, tmp_path, monkeypatch):
    """A stand-in for the engine's client: what it is given, and the programs it would run in the container."""
    stack = with_posts(backups, REACTIONS)
    stack.sql(REACTED)
    calls = tmp_path / "calls"
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n'
        'shift; while [ "$1" != connectin-db-1 ]; do shift; done; shift\n'
        f'case "$1" in pg_*) program=$1; shift; exec {BINARIES}/$program "$@";; esac\nexec "$@"\n'
    )
    docker.chmod(0o755)
    before = stack.state()
    args = {"client_container": "connectin-db-1"}
    run = backups.run
    monkeypatch.setattr(backups, "run", lambda **more: run_with_path(run, tmp_path, **args, **more))
    backups.roll_back(REACTIONS[0])
    done = backups.run(state="restored", what="all")
    assert not done.get("failed"), done
    assert stack.state() == before
    said = calls.read_text()
    assert "exec --interactive --env PGPASSWORD connectin-db-1 pg_dump" in said and PASSWORD not in said


def run_with_path(run, folder: Path, **args):
    """The module with another folder first on its path, as Ansible's ``environment`` does it."""
    return run(**args, environment={"PATH": f"{folder}:{os.environ['PATH']}"})


@of_distribution
def test_the_plan_learns_whether_a_backup_can_be_made(backups, tmp_path):
    stack = with_posts(backups)
    ready = stack.info(backup_dir=str(backups.folder))["backup"]
    assert ready["problems"] == [] and ready["client"] == BINARIES and ready["bytes"] > 0 and ready["free"] > 0
    assert not backups.folder.exists()
    missing = stack.info(backup_dir=str(backups.folder), backup_client_dir=str(tmp_path))["backup"]
    assert [problem["code"] for problem in missing["problems"]] == ["backup_client_missing"]
    with stack.connect() as admin:
        admin.execute("CREATE TABLE secret (id int)")
    forbidden = stack.info(backup_dir=str(backups.folder))["backup"]
    assert [problem["code"] for problem in forbidden["problems"]] == ["backup_forbidden"]
    assert "public.secret" in forbidden["problems"][0]["message"]
    assert stack.info()["backup"] == {}
