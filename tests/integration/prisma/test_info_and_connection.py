"""Reading the history, finding the database, and what is never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .conftest import CHECKOUT, LEDGER, PASSWORD, PASSWORD_IN_URL
from .scene import INIT, REACTIONS, RENAME, refused


def test_the_history_tells_every_state(three):
    three.row("20260104_half", state="failed")
    three.row("20260105_gone", state="rolled_back")
    three.row("20260106_baseline", steps=0)
    three.write("20260107_new", "ALTER TABLE users ADD COLUMN nick text;", "-- rollback: keep\n")
    result = three.info(target_migrations=[INIT[0]])
    assert [(each["name"], each["state"]) for each in result["migrations"]] == [
        (INIT[0], "applied"),
        (RENAME[0], "applied"),
        (REACTIONS[0], "applied"),
        ("20260104_half", "failed"),
        ("20260105_gone", "rolled_back"),
        ("20260106_baseline", "applied"),
        ("20260107_new", "pending"),
    ]
    by_name = {each["name"]: each for each in result["migrations"]}
    assert by_name["20260106_baseline"]["baselined"] and not by_name[INIT[0]]["baselined"]
    assert by_name["20260107_new"]["additive"] and by_name["20260107_new"]["directive"] == "keep"
    assert [each["code"] for each in by_name["20260104_half"]["problems"]] == ["failed", "down_missing"]
    assert by_name["20260105_gone"]["rolled_back_at"] and by_name["20260105_gone"]["problems"] == []
    assert result["failed_migrations"] == ["20260104_half"] and result["last_applied"] == "20260106_baseline"
    assert result["unknown_to_target"] == ["20260106_baseline", "20260104_half", REACTIONS[0], RENAME[0]]
    assert (by_name[INIT[0]]["known_to_target"], by_name[RENAME[0]]["known_to_target"]) == (True, False)
    assert "failed" not in result and not result["changed"]


def test_without_a_target_nothing_is_called_unknown(three):
    result = three.info()
    assert result["unknown_to_target"] == [] and {each["known_to_target"] for each in result["migrations"]} == {None}


def test_a_database_without_the_table_is_told_by_info_and_refused_for_a_rollback(three):
    three.sql("DROP TABLE _prisma_migrations")
    result = three.info()
    assert (result["initialized"], result["layout"]) == (False, "none") and result["applied"] == []
    assert [each["state"] for each in result["migrations"]] == ["pending"] * 3
    refused(three, three.down(REACTIONS[0]), "_prisma_migrations is not in schema public")


def test_another_table_of_that_name_is_not_prismas(three):
    three.sql("ALTER TABLE _prisma_migrations DROP COLUMN logs")
    refused(three, three.info(), "lacks logs")


def test_the_schema_is_found_where_the_url_names_none_and_asked_for_where_there_are_two(three):
    url = three.url.replace("schema=public&", "")
    three.sql("ALTER TABLE _prisma_migrations RENAME TO x; CREATE SCHEMA other; ALTER TABLE x SET SCHEMA other")
    three.sql("ALTER TABLE other.x RENAME TO _prisma_migrations")
    assert three.info(database_url=url)["schema"] == "other"
    assert three.down(REACTIONS[0], database_url=url)["changed"] and three.tables()[-1:] == []
    three.sql(LEDGER)
    refused(three, three.info(database_url=url), "other, public")
    assert three.info(database_url=url, schema="other")["last_applied"] == RENAME[0]
    assert three.info(database_url=url, schema="public")["last_applied"] == ""


def test_unqualified_names_of_a_script_are_those_of_the_urls_schema(stack):
    stack.sql('CREATE SCHEMA "We""ird"; ALTER TABLE _prisma_migrations SET SCHEMA "We""ird"')
    stack.sql('CREATE TABLE "We""ird".t (id int); CREATE TABLE public.t (id int)')
    stack.write("20260101_t", "CREATE TABLE t (id int);", "DROP TABLE t;")
    stack.sql(
        'SET search_path = "We""ird"; INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name) '
        "VALUES ('1', encode(sha256('CREATE TABLE t (id int);'), 'hex'), now(), '20260101_t')"
    )
    url = stack.url.replace("schema=public", "schema=We%22ird")
    assert stack.down("20260101_t", database_url=url)["changed"]
    assert stack.sql("SELECT schemaname::text FROM pg_tables WHERE tablename = 't'") == [("public",)]


def test_a_database_of_prisma_next_is_refused(three):
    three.sql("CREATE SCHEMA prisma_contract; CREATE TABLE prisma_contract.marker (id int)")
    assert three.info()["layout"] == "prisma-next"
    refused(three, three.down(REACTIONS[0]), "Prisma Next")


def test_a_role_that_does_not_own_the_table_is_told_so_and_changes_nothing(three):
    admin = three.connect()
    admin.execute("ALTER TABLE reactions OWNER TO postgres")
    admin.execute("GRANT SELECT ON reactions TO app")
    before = three.live()
    refused(three, three.down(REACTIONS[0]), "42501")
    assert three.live() == before


def test_the_url_is_read_from_an_env_file_and_the_host_resolved_as_told(three, tmp_path):
    env = tmp_path / ".env"
    url = three.url.replace("127.0.0.1", "db.internal")
    env.write_text(f'OTHER=x\nexport DATABASE_URL="{url}" # the database\n')
    assert three.info(env_file=str(env), resolve={"db.internal": "127.0.0.1"})["initialized"]
    refused(three, three.info(env_file=str(env), env_variable="NOPE"), "NOPE")
    refused(three, three.info(env_file=str(tmp_path / "none")), "Cannot read env_file")


def test_a_wrong_password_is_refused_without_being_shown(three):
    url = three.url.replace(PASSWORD_IN_URL, "wr0ng%2Fpassword")
    result = three.info(database_url=url)
    refused(three, result, "Cannot connect", f"app@127.0.0.1:{three.port}/{three.name}")
    assert "wr0ng" not in json.dumps(result)


def test_nobody_listening_is_refused_with_the_address(three):
    url = three.url.replace(f":{three.port}/", ":1/")
    refused(three, three.down(REACTIONS[0], database_url=url), "Cannot connect", "127.0.0.1:1/")


def test_no_driver_is_refused_with_the_package_to_install(three):
    refused(three, three.info(without=("psycopg", "psycopg2")), "python3-psycopg")


@pytest.fixture
def ansible(three, tmp_path):
    """The modules through Ansible itself, most verbose."""

    def run(module, **args):
        args.setdefault("path", [str(three.folder)])
        (tmp_path / "args.json").write_text(json.dumps(args))
        return subprocess.run(
            [
                str(CHECKOUT / ".venv/bin/ansible") if (CHECKOUT / ".venv").exists() else "ansible",
                *("localhost", "-c", "local", "-i", "localhost,", "-m", f"connectin.rollback.{module}"),
                *("-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(args), "-vvvvv"),
            ],
            cwd=CHECKOUT,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
                "ANSIBLE_HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
        )

    return run


def test_through_ansible_a_rollback_works_and_shows_no_password_at_any_verbosity(three, ansible, tmp_path):
    env = tmp_path / ".env"
    env.write_text(f"DATABASE_URL={three.url}\n")
    done = ansible("prisma_migration", env_file=str(env), migrations=[REACTIONS[0]])
    assert done.returncode == 0 and '"changed": true' in done.stdout, done.stdout + done.stderr
    assert three.live() == [INIT[0], RENAME[0]]
    shown = done.stdout + done.stderr
    assert PASSWORD not in shown and PASSWORD_IN_URL not in shown


def test_through_ansible_a_url_given_as_an_option_is_hidden_in_the_invocation(three, ansible):
    url = three.url.replace(f":{three.port}/", ":1/")
    done = ansible("prisma_migration_info", database_url=url)
    assert done.returncode == 2 and "Cannot connect" in done.stdout, done.stdout
    # The command line that ansible prints of itself is not the module's.
    shown = (
        done.stdout.split("TASK [", 1)[-1] if "TASK [" in done.stdout else done.stdout[done.stdout.index("FAILED!") :]
    )
    assert PASSWORD not in shown and PASSWORD_IN_URL not in shown
