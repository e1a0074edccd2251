"""A URL that names a standby: it can be read and not rolled back."""

from __future__ import annotations

import os
import shutil
import subprocess

import psycopg
import pytest

from .conftest import as_server, folder_of_the_server, free_port, running
from .scene import INIT, REACTIONS, RENAME, refused


@pytest.fixture
def standby(three, cluster, programs):
    """The URL of a hot standby that follows the test's cluster. Its programs lack pg_basebackup in one version."""
    primary, port = cluster
    own_port = free_port()
    with folder_of_the_server("standby-") as home:
        admin = three.connect()
        admin.execute("SELECT pg_backup_start('standby', true)")
        subprocess.run(as_server("cp", "-a", str(primary / "data"), str(home / "data")), check=True, cwd=home)
        ((label,),) = admin.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchall()
        (home / "data" / "postmaster.pid").unlink()
        for name, text in {
            "backup_label": label,
            "standby.signal": "",
            "postgresql.auto.conf": f"primary_conninfo = 'host={primary} port={port} user=postgres'\n",
        }.items():
            (home / "data" / name).write_text(text)
            if os.geteuid() == 0:
                shutil.chown(home / "data" / name, "postgres")
        with running(programs, home, own_port):
            yield three.url.replace(f":{port}/", f":{own_port}/")


def test_a_standby_is_read_and_refused_for_everything_that_writes(three, standby):
    with psycopg.connect(standby.split("?")[0]) as eye:
        assert eye.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
    there, here = three.info(database_url=standby), three.info()
    assert there["applied"] == [INIT[0], RENAME[0], REACTIONS[0]]
    assert there["migrations"] == here["migrations"]
    before = three.state()
    for arguments in ({"to_migrations": [INIT[0]]}, {"migrations": [REACTIONS[0]], "state": "applied"}):
        for check in (True, False):
            result = three.run("prisma_migration", check=check, database_url=standby, **arguments)
            refused(three, result, "is on a standby", "Give the URL of the primary")
    assert three.state() == before
