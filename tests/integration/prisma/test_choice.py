"""Which migrations go, and where their scripts come from."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .conftest import NEWEST
from .scene import INIT, REACTIONS, RENAME, refused

# What is tested here does not depend on the server's version.
pytestmark = pytest.mark.parametrize("programs", [NEWEST], indirect=True, scope="session", ids=["newest"])

ALL = [INIT[0], RENAME[0], REACTIONS[0]]


@pytest.mark.parametrize(
    "choice",
    [
        {"to_migration": INIT[0]},
        {"steps": 2},
        {"migrations": [RENAME[0], REACTIONS[0]]},
        {"to_migrations": [INIT[0]]},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_every_way_to_name_what_goes_takes_the_same_migrations_down(three, choice):
    result = three.down(**choice)
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0], RENAME[0]]
    assert three.live() == [INIT[0]]
    assert three.tables() == ["users"] and three.columns("users") == ["id", "name"]
    if "steps" not in choice:
        assert three.down(**choice)["changed"] is False


def test_a_reached_target_takes_no_lock(three):
    holder = three.connect()
    holder.execute("SELECT pg_advisory_lock(72707369)")
    assert three.down(to_migration=REACTIONS[0], lock_wait=0)["changed"] is False


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"to_migration": "20260102_renam"}, "Did you mean 20260102_rename?"),
        ({"steps": 4}, "give a number from 1 to 3"),
        ({"steps": 0}, "give a number from 1 to 3"),
        ({"to_path": "/nowhere/migrations"}, "holds no migration"),
        ({"to_path": "git:/nowhere@v1:migrations"}, "Cannot read git:/nowhere@v1:migrations"),
        ({"to_path": "git:/nowhere"}, "cannot be read as a source"),
        ({}, "one of the following is required"),
        ({"steps": 1, "migrations": []}, "mutually exclusive"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(three, choice, text):
    before = three.state()
    result = three.run("prisma_migration", **choice)
    assert result["failed"] and text in result["msg"]
    assert three.state() == before


def test_there_is_no_way_down_to_a_migration_that_is_not_applied(three):
    three.write("20260104_later", "SELECT 1;", "SELECT 1;")
    refused(three, three.down(to_migration="20260104_later"), "is not applied", REACTIONS[0])


def test_only_what_failed_goes_down_when_that_is_wanted(three):
    three.write("20260104_broken", "CREATE TABLE half (id int); SELECT 1/0;", "DROP TABLE IF EXISTS half;")
    three.sql("CREATE TABLE half (id int)")
    three.row("20260104_broken", "CREATE TABLE half (id int); SELECT 1/0;", state="failed")
    refused(three, three.down(failed_only=True), "failed=mark_only", "failed=run_down")
    assert three.down(failed_only=True, failed="run_down")["changed"]
    assert three.live() == ALL and three.tables() == ["reactions", "users"]
    assert three.down(failed_only=True)["changed"] is False


@pytest.fixture
def checkout(three, tmp_path):
    """A checkout whose tags v1 and v3 hold one and three migrations, standing on v1."""
    root = tmp_path / "checkout"
    shutil.copytree(three.folder, root / "prisma" / "migrations")

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *who, "-C", str(root), *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "three")
    git("tag", "v3")
    for name in (RENAME[0], REACTIONS[0]):
        shutil.rmtree(root / "prisma" / "migrations" / name)
    git("commit", "-am", "one")
    git("tag", "v1")
    shutil.rmtree(three.folder)
    return root


def test_scripts_and_target_are_read_from_tags_wherever_the_checkout_stands(three, checkout):
    folder = "prisma/migrations"
    refused(three, three.down(to_path=f"{checkout}/{folder}", path=[f"{checkout}/{folder}"]), "has no down.sql")
    result = three.down(to_path=f"git:{checkout}@v1:{folder}", path=[f"git:{checkout}@v3:{folder}"])
    assert [each["name"] for each in result["rolled_back"]] == [REACTIONS[0], RENAME[0]]
    assert three.live() == [INIT[0]] and three.columns("users") == ["id", "name"]


def test_a_tag_that_is_not_there_is_refused_with_what_to_look_at(three, checkout):
    result = three.down(steps=1, path=[f"git:{checkout}@v9:prisma/migrations"])
    refused(three, result, "v9", f"git -C {checkout} ls-tree v9:prisma/migrations")


def test_the_archive_serves_after_the_checkout_moved_and_is_held_to_its_checksums(three, tmp_path):
    archive = tmp_path / "archive"
    kept = three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    assert kept["changed"] and [each["name"] for each in kept["archived"]] == ALL
    again = three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    assert not again["changed"]
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=archive / RENAME[0], check=True)
    assert archive.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(three.folder)
    (archive / RENAME[0] / "down.sql").write_text("DROP TABLE users;")
    refused(three, three.down(steps=2, path=[str(archive)]), "SHA256SUMS", RENAME[0])
    (archive / RENAME[0] / "down.sql").write_text(RENAME[2])
    assert three.down(steps=2, path=[str(three.folder), str(archive)])["changed"]
    assert three.live() == [INIT[0]] and three.columns("users") == ["id", "name"]


def test_check_mode_archives_nothing_and_says_what_it_would(three, tmp_path):
    archive = tmp_path / "archive"
    said = three.run("prisma_migration_archive", check=True, path=[str(three.folder)], dest=str(archive))
    assert said["changed"] and not archive.exists()


def test_a_migration_that_a_killed_run_had_moved_aside_is_put_back(three, tmp_path):
    archive = tmp_path / "archive"
    three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    (archive / RENAME[0]).rename(archive / f".{RENAME[0]}.old")
    shutil.rmtree(three.folder / RENAME[0])
    three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    assert (archive / RENAME[0] / "down.sql").read_text() == RENAME[2]


def test_the_source_that_fits_what_was_applied_is_taken_before_one_that_was_edited(three, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(three.folder, archive)
    three.write(REACTIONS[0], "CREATE TABLE reactions (id bigint);", "DROP TABLE users;")
    assert three.down(steps=1, path=[str(three.folder), str(archive)])["changed"]
    assert three.tables() == ["users"]


def test_the_migrations_of_another_database_are_refused_in_a_tag_too(three, checkout):
    (checkout / "prisma" / "migrations" / "migration_lock.toml").write_text('provider = "mysql"\n')
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "-C", str(checkout), "add", "."], check=True)
    subprocess.run(["git", *who, "-C", str(checkout), "commit", "-qm", "mysql"], check=True)
    refused(three, three.down(steps=1, path=[f"git:{checkout}@HEAD:prisma/migrations"]), "mysql", "only postgresql")


def test_a_down_script_that_only_the_archive_has_stays_there(three, tmp_path):
    archive = tmp_path / "archive"
    three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    (three.folder / RENAME[0] / "down.sql").unlink()
    again = three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    assert not again["changed"] and (archive / RENAME[0] / "down.sql").read_text() == RENAME[2]


@pytest.mark.parametrize("cut", ["{digest}  ", "{digest}", "", "x"])
def test_a_damaged_list_of_checksums_is_refused(three, tmp_path, cut):
    archive = tmp_path / "archive"
    three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    sums = archive / REACTIONS[0] / "SHA256SUMS"
    sums.write_text(cut.format(digest=sums.read_text().split()[0]))
    refused(three, three.down(steps=1, path=[str(archive)]), "SHA256SUMS")


def test_checksums_written_in_binary_mode_are_read(three, tmp_path):
    archive = tmp_path / "archive"
    three.run("prisma_migration_archive", path=[str(three.folder)], dest=str(archive))
    sums = archive / REACTIONS[0] / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("  ", " *"))
    assert three.down(steps=1, path=[str(archive)])["changed"]


def test_a_checkout_may_be_named_by_a_subfolder_and_a_path_with_dots(three, checkout):
    (checkout / "prisma" / "deeper").mkdir()
    for source in (f"git:{checkout}/@v3:./prisma/migrations/", f"git:{checkout}/@v3:prisma/../prisma/migrations"):
        assert three.info(path=[source])["migrations"][-1]["has_down"], source


def test_a_url_that_is_not_utf_8_is_refused_and_not_shown(three, tmp_path):
    file = tmp_path / ".env"
    file.write_bytes(b"DATABASE_URL=postgresql://app:s\xe9cret@127.0.0.1/x\n")
    result = three.info(env_file=str(file))
    assert result["failed"] and "not UTF-8" in result["msg"] and "cret" not in result["msg"]
