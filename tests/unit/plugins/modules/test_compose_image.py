# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import hashlib
import json
import os
import re

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.connectin.rollback.plugins.modules import compose_image
from module_run import run as run_module

COMPOSE = "services:\n  api:\n    image: ${REGISTRY}/api:v2  # the API\n  web:\n    image: ${REGISTRY}/web:${WEB_TAG}\n"
ENV = "REGISTRY=r:5000\r\nWEB_TAG='v2'\r\nSECRET=hunter2"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    (tmp_path / ".env").write_bytes(ENV.encode())
    (tmp_path / ".env").chmod(0o640)
    return tmp_path


@pytest.fixture
def run(project, capsys):
    def call(check=False, **options):
        options = {
            "project_dir": str(project),
            "tags": {"api": "v1", "web": "v1"},
            "_ansible_check_mode": check,
            **options,
        }
        with patch_module_args(options), pytest.raises(SystemExit) as ended:
            compose_image.main()
        output = capsys.readouterr().out
        assert "Traceback" not in output
        return ended.value.code, json.loads(output)

    return call


def content(project):
    return (project / "docker-compose.yml").read_text(), (project / ".env").read_bytes().decode()


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_both_tags_are_written_and_written_only_once(project, run):
    after = COMPOSE.replace("api:v2", "api:v1"), ENV.replace("'v2'", "'v1'")
    code, checked = run(check=True)
    assert (code, checked["changed"], content(project)) == (0, True, (COMPOSE, ENV))
    code, real = run()
    assert content(project) == after
    assert {key: real[key] for key in real if key != "invocation"} == {
        key: checked[key] for key in checked if key != "invocation"
    }
    assert real["files"] == [
        {"path": str(project / ".env"), "sha256": digest(after[1])},
        {"path": str(project / "docker-compose.yml"), "sha256": digest(after[0])},
    ]
    for check in (True, False):
        code, again = run(check=check)
        assert (code, again["changed"], again["changes"], again["diff"]) == (0, False, [], [])
        assert again["files"] == real["files"]


def test_the_diff_shows_only_the_lines_that_change(project, run):
    _code, result = run()
    by_file = {os.path.basename(entry["before_header"]): entry for entry in result["diff"]}
    assert (by_file[".env"]["before"], by_file[".env"]["after"]) == ("WEB_TAG='v2'\n", "WEB_TAG='v1'\n")
    compose = by_file["docker-compose.yml"]
    assert compose["before"] == "    image: ${REGISTRY}/api:v2  # the API\n"
    assert compose["after"] == "    image: ${REGISTRY}/api:v1  # the API\n"
    assert "hunter2" not in json.dumps(result)


def test_mode_and_owner_of_a_file_stay(project, run):
    if os.geteuid() == 0:
        os.chown(project / ".env", 12345, 12346)
    before = (project / ".env").stat()
    run()
    after = (project / ".env").stat()
    assert before.st_ino != after.st_ino
    assert [getattr(before, key) for key in ("st_mode", "st_uid", "st_gid")] == [
        getattr(after, key) for key in ("st_mode", "st_uid", "st_gid")
    ]


def test_a_symbolic_link_stays_one_and_its_target_is_written(project, run):
    shared = project / "shared"
    shared.mkdir()
    (project / ".env").rename(shared / "env")
    (project / ".env").symlink_to("shared/env")
    run()
    assert (project / ".env").is_symlink()
    assert (shared / "env").read_bytes().decode() == ENV.replace("'v2'", "'v1'")


def test_a_new_env_file_is_private(project, run):
    (project / ".env").unlink()
    code, _result = run()
    assert code == 0
    assert (project / ".env").read_text() == "WEB_TAG=v1\n"
    assert (project / ".env").stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_when_one_service_cannot_be_set(project, run):
    code, result = run(tags={"api": "v1", "worker": "v1"})
    assert code == 1
    assert "no service worker" in result["msg"]
    assert (result["changed"], result["changes"], result["files"]) == (False, [], [])
    assert content(project) == (COMPOSE, ENV)


def test_nothing_is_written_when_one_file_cannot_be(project, run):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for directory in (project, *project.parents[:-2]):
        directory.chmod(0o755)
    for name in (".env", "docker-compose.yml"):
        (project / name).chmod(0o644)
    os.seteuid(65534)
    try:
        code, result = run()
    finally:
        os.seteuid(0)
    assert code == 1
    assert "Permission denied. Nothing was changed." in result["msg"]
    assert content(project) == (COMPOSE, ENV)
    assert sorted(path.name for path in project.iterdir()) == [".env", "docker-compose.yml"]


def ledger(project):
    path = project / "state" / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def enter(project):
    return {"release": "v1", "who": "alice", "run_id": "run-a", "state_dir": str(project / "state")}


def test_a_pin_is_in_the_ledger_before_the_file_is_written(project, run, enter):
    _code, checked = run(check=True, ledger=enter)
    assert (checked["changed"], checked["entered"], (project / "state").exists()) == (True, [], False)
    code, result = run(ledger=enter)
    pins = [{"path": str(project / "docker-compose.yml"), "sha256": digest(COMPOSE.replace("api:v2", "api:v1"))}]
    (entry,) = ledger(project)
    assert (code, result["entered"], entry["pins"]) == (0, pins, pins)
    assert [entry[key] for key in ("kind", "release", "verdict", "who", "run_id")] == [
        "mark",
        "v1",
        None,
        "alice",
        "run-a",
    ]
    _code, again = run(ledger=enter)
    assert (again["changed"], again["entered"], len(ledger(project))) == (False, [], 1)


def test_a_run_that_was_killed_between_ledger_and_file_enters_the_pin_once(project, run, enter, monkeypatch):
    def killed(*_args):
        raise SystemExit(137)

    monkeypatch.setattr(compose_image, "write_all", killed)
    options = {"project_dir": str(project), "tags": {"api": "v1"}, "ledger": enter}
    with patch_module_args(options), pytest.raises(SystemExit):
        compose_image.main()
    assert (len(ledger(project)), content(project)) == (1, (COMPOSE, ENV))
    monkeypatch.undo()
    _code, result = run(ledger=enter, tags={"api": "v1"})
    assert (result["changed"], result["entered"], len(ledger(project))) == (True, [], 1)


def test_a_change_of_the_env_file_alone_is_not_entered(project, run, enter):
    _code, result = run(tags={"web": "v1"}, ledger=enter)
    assert (result["changed"], result["entered"], (project / "state").exists()) == (True, [], False)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"release": "a/b"}, "'a/b' cannot name a release"), ({"state_dir": "file/x"}, "Cannot create")],
)
def test_nothing_is_written_when_the_ledger_cannot_be(project, run, enter, options, said, monkeypatch):
    (project / "file").write_text("")
    monkeypatch.chdir(project)
    code, result = run(ledger={**enter, **options})
    assert code == 1
    assert said in result["msg"]
    assert content(project) == (COMPOSE, ENV)


def test_a_number_as_a_tag_is_taken_as_it_was_typed(project, run):
    run(tags={"api": 7})
    assert "api:7  # the API" in content(project)[0]


def test_the_files_that_compose_file_names_in_the_env_file_are_used(project, run):
    (project / "prod.yml").write_text("services:\n  api:\n    image: r/api:v5\n")
    with open(project / ".env", "ab") as stream:
        stream.write(b"\r\nCOMPOSE_FILE=docker-compose.yml:prod.yml\r\n")
    _code, result = run(tags={"api": "v1"})
    assert (project / "prod.yml").read_text() == "services:\n  api:\n    image: r/api:v1\n"
    assert [change["file"] for change in result["changes"]] == [str(project / "prod.yml")]


def test_a_service_that_shares_the_variable_is_warned_of(project):
    (project / "docker-compose.yml").write_text(COMPOSE + "  worker:\n    image: r/web:${WEB_TAG}\n")
    # In a process of its own: where a controller's code is loaded as well, Ansible shows warnings at once.
    result = run_module("compose_image", project_dir=str(project), tags={"api": "v1", "web": "v1"})
    assert "worker" in json.dumps(result["warnings"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project_dir": "/nonexistent"}, "Cannot read /nonexistent: No such file"),
        ({"compose_files": ["gone.yml"]}, "Cannot read .*gone.yml: No such file"),
        ({"project_dir": "{project}/empty"}, "no compose file in"),
        ({"compose_files": ["latin1.yml"]}, "latin1.yml is not UTF-8"),
        ({"tags": {"api": "no tag"}}, "cannot be the tag of api"),
    ],
)
def test_what_stands_in_the_way_is_said_without_a_traceback(project, run, options, said):
    (project / "empty").mkdir()
    (project / "latin1.yml").write_bytes("# \xe9\n".encode("latin-1"))
    options = {
        key: value.format(project=project) if isinstance(value, str) else value for key, value in options.items()
    }
    code, result = run(**options)
    assert code == 1
    assert re.search(said, result["msg"])


def test_a_host_without_pyyaml_is_told_its_package(run, monkeypatch):
    monkeypatch.setattr(compose_image, "yaml", None)
    code, result = run()
    assert code == 1
    assert "python3-yaml" in result["msg"]
