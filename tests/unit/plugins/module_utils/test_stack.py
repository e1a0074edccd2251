# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _lock
from ansible_collections.connectin.rollback.plugins.module_utils import _stack as stack

IMAGE = "r:5000/a/api:v1"
GOOD = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def local(digest, identifier="sha256:id"):
    return {"Id": identifier, "RepoDigests": [f"r:5000/a/api@{digest}"] if digest else []}


def judge(answer, recorded="", by_tag=None, by_digest=None, image_id=""):
    recorded = {"digest": recorded, "image_id": image_id}
    found = stack.judge_target(IMAGE, recorded, by_tag, by_digest, answer)
    return found.digest, found.local, [refusal.code for refusal in found.refusals]


HAS = stack.RegistryAnswer(digest=GOOD)
MOVED = stack.RegistryAnswer(digest=OTHER)
DOWN = stack.RegistryAnswer(problem="unreachable", message="connection refused")
DENIED = stack.RegistryAnswer(problem="denied", message="no basic auth credentials")
MISSING = stack.RegistryAnswer(problem="missing", message="manifest unknown")


def test_an_image_that_only_the_registry_has_is_to_be_pulled():
    assert judge(HAS) == (GOOD, False, [])
    assert judge(HAS, recorded=GOOD) == (GOOD, False, [])


def test_a_local_image_of_another_content_under_the_same_tag_is_not_the_target():
    assert judge(HAS, by_tag=local(OTHER)) == (GOOD, False, [])


def test_a_local_image_with_the_right_digest_is_the_target():
    assert judge(HAS, by_tag=local(GOOD)) == (GOOD, True, [])
    assert judge(HAS, by_tag=local(""), by_digest=local(GOOD)) == (GOOD, True, [])


def test_a_local_image_without_the_targets_name_is_still_to_be_pulled_for_it_is_started_by_name():
    assert judge(HAS, by_digest=local(GOOD)) == (GOOD, False, [])
    assert judge(HAS, by_tag=local(OTHER, "sha256:other"), by_digest=local(GOOD)) == (GOOD, False, [])


@pytest.mark.parametrize("answer", [DOWN, DENIED, MISSING])
def test_the_registry_does_not_matter_when_the_ledgers_image_is_local(answer):
    assert judge(answer, recorded=GOOD, by_tag=local(GOOD)) == (GOOD, True, [])
    assert judge(answer, by_tag=local("", "sha256:x"), image_id="sha256:x") == ("", True, [])


@pytest.mark.parametrize(
    ("answer", "code"), [(DOWN, "registry_unreachable"), (DENIED, "registry_denied"), (MISSING, "image_missing")]
)
def test_an_image_that_cannot_be_had_is_a_refusal(answer, code):
    assert judge(answer) == ("", False, [code])
    assert judge(answer, recorded=GOOD) == (GOOD, False, [code])
    assert judge(answer, recorded=GOOD, by_tag=local(OTHER)) == (GOOD, True, [code])
    assert judge(answer, by_tag=local(OTHER)) == (OTHER, True, [code])


def test_a_tag_that_moved_since_the_release_was_good_is_a_refusal():
    assert judge(MOVED, recorded=GOOD) == (GOOD, False, ["target_moved"])
    assert judge(MOVED, recorded=GOOD, by_digest=local(GOOD)) == (GOOD, True, ["target_moved"])


def test_an_image_that_is_built_on_the_host_needs_no_registry():
    assert judge(None) == ("", False, [])
    assert judge(None, by_tag=local("")) == ("sha256:id", True, [])


def test_an_image_that_is_built_anew_is_not_measured_by_the_digest_it_once_had_in_a_registry():
    assert judge(None, recorded=GOOD) == ("", False, [])
    assert judge(None, recorded=GOOD, by_tag=local("")) == ("sha256:id", True, [])
    assert judge(None, recorded=GOOD, by_tag=local(GOOD), by_digest=local(GOOD)) == (GOOD, True, [])
    assert judge(None, recorded=GOOD, by_digest=local(GOOD)) == ("", False, [])


@pytest.mark.parametrize(
    ("status", "message", "problem"),
    [
        (404, "manifest unknown: manifest unknown", "missing"),
        (404, "errors:\nname unknown: repository name not known to registry\n", "missing"),
        (500, "manifest for r:5000/a:v1 not found: manifest unknown", "missing"),
        (401, "errors:\nunauthorized: authentication required\n", "denied"),
        (500, 'Head "http://r:5000/v2/a/manifests/v1": no basic auth credentials', "denied"),
        (403, "errors:\ndenied: requested access to the resource is denied\n", "denied"),
        (500, 'Get "http://r:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused', "unreachable"),
        (0, "/var/run/docker.sock: timed out", "unreachable"),
        (500, "lookup r on 10.0.0.1:53: no such host", "unreachable"),
    ],
)
def test_failures_of_a_registry_are_told_apart(status, message, problem):
    assert stack.registry_answer(status, message).problem == problem


def container(service, project="app", state="running", created="2026-01-01T00:00:00Z", **labels):
    return {
        "Id": f"{service}-{state}-{created}",
        "Name": f"/{project}-{service}-1",
        "Created": created,
        "RestartCount": 3,
        "Image": "sha256:id",
        "State": {"Status": state, "StartedAt": created, "Health": {"Status": "healthy"}},
        "Config": {
            "Image": IMAGE,
            "Labels": {
                stack.PROJECT_LABEL: project,
                stack.SERVICE_LABEL: service,
                stack.WORKING_DIR_LABEL: f"/srv/{project}",
                stack.ONEOFF_LABEL: "False",
                **labels,
            },
        },
        "NetworkSettings": {"Networks": {"front": {"IPAddress": "172.18.0.2"}, "none": {"IPAddress": ""}}},
    }


def test_one_off_containers_and_other_projects_are_left_out():
    members = [container("api"), container("api", project="b"), container("api", **{stack.ONEOFF_LABEL: "True"})]
    assert stack.by_service(members, "app", "/srv/app") == {"api": [members[0]]}


def test_the_directory_tells_when_the_projects_name_is_not_known():
    members = [container("api"), container("api", project="b")]
    assert stack.by_service(members, "", "/srv/b") == {"api": [members[1]]}


def test_the_liveliest_and_then_the_newest_container_of_a_service_counts():
    old, new = container("api", created="2026-01-01"), container("api", created="2026-01-02")
    looping, gone = container("api", state="restarting", created="2026-01-03"), container("api", state="exited")
    assert stack.by_service([gone, looping, old, new], "app", "")["api"] == [new, old, looping, gone]


def test_a_container_is_described_with_the_digests_of_its_image():
    assert stack.describe(container("api"), local(GOOD)) == {
        "container_id": "api-running-2026-01-01T00:00:00Z",
        "name": "app-api-1",
        "state": "running",
        "health": "healthy",
        "restarts": 3,
        "started_at": "2026-01-01T00:00:00Z",
        "image": IMAGE,
        "image_id": "sha256:id",
        "repo_digests": [f"r:5000/a/api@{GOOD}"],
    }


def test_a_container_without_health_check_whose_image_is_gone_is_described_all_the_same():
    bare = container("api")
    del bare["State"]["Health"]
    described = stack.describe(bare, None)
    assert (described["health"], described["repo_digests"]) == ("", [])


def test_only_running_containers_have_addresses():
    members = [container("db"), container("db", state="exited")]
    assert stack.addresses(members) == ["172.18.0.2"]


def running(image, digest=""):
    return {"running": {"image": image, "repo_digests": [f"r/api@{digest}"] if digest else []}}


def test_the_running_release_is_the_one_whose_digests_the_ledger_knows():
    releases = [
        {"release": "v2", "services": {"api": {"digest": OTHER}}},
        {"release": "v1", "services": {"api": {"digest": GOOD}, "web": {"digest": OTHER}}},
    ]
    services = {"api": running("r/api:latest", GOOD), "web": running("r/api:latest", OTHER)}
    assert stack.running_release(services, releases) == "v1"
    assert stack.running_release({"api": services["api"], "db": {"running": None}}, releases) == "v1"


def test_an_unrecorded_release_is_known_by_its_tag_if_all_services_share_it():
    assert stack.running_release({"api": running("r/api:v3"), "web": running("r/web:v3")}, []) == "v3"
    assert stack.running_release({"api": running("r/api:v3"), "web": running("r/web:v2")}, []) == ""
    assert stack.running_release({"api": {"running": None}}, []) == ""


# Captured from Docker Compose 2.26.1.
RENDERED = (
    '{"name": "app", "networks": {"default": {"name": "app_default", "ipam": {}}}, "services": {'
    '"api": {"command": null, "entrypoint": null, "image": "r:5000/a/api:v1", "networks": {"default": null}}, '
    '"web": {"build": {"context": "/x"}}}}'
)


def test_the_rendered_project_tells_every_services_image():
    project = stack.read_project(RENDERED)
    assert (project.name, project.images) == ("app", {"api": "r:5000/a/api:v1", "web": ""})
    assert stack.read_project('{"name": "app", "services": null}') == stack.Project("app", {})


@pytest.mark.parametrize(
    "stderr",
    [
        "unknown flag: --project-directory\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]\n",
        "docker: 'compose' is not a docker command.\nSee 'docker --help'\n",
        "docker: unknown command: docker compose\n\nRun 'docker --help' for more information\n",
        "unknown shorthand flag: 'f' in -f\n",
    ],
)
def test_a_missing_compose_plugin_names_its_package(stderr):
    found = stack.compose_refusal(stderr, "", "retry")
    assert found.code == "compose_missing_plugin"
    assert "docker-compose-plugin" in found.next


def test_composes_reason_is_shown_without_its_warnings_and_without_values():
    stderr = (
        'time="2026-11-24T04:34:55Z" level=warning msg="The \\"WEB_TAG\\" variable is not set."\n'
        "Invalid hostPort: hunter2\nmore\neven more\n"
    )
    found = stack.compose_refusal(stderr, "PORT=hunter2\n", "docker compose config --quiet")
    assert found == stack.Refusal(
        "compose_invalid",
        "docker compose cannot read the project: Invalid hostPort: ***; more",
        "docker compose config --quiet",
    )


@pytest.mark.parametrize(
    ("kind", "code", "command"),
    [
        ("permission", "docker_permission", "usermod -aG docker deploy"),
        ("remote", "engine_remote", "unset DOCKER_HOST"),
        ("http", "engine_error", "journalctl -u docker"),
        ("down", "engine_down", "systemctl start docker"),
    ],
)
def test_every_way_an_engine_fails_has_its_own_command(kind, code, command):
    found = stack.engine_refusal(kind, "what was found", "deploy")
    assert found.code == code
    assert "what was found" in found.message
    assert command in found.next


@pytest.mark.parametrize(
    ("kind", "code", "command"),
    [
        ("ownership", "git_safe_directory", "--add safe.directory /srv/app"),
        ("no_repository", "git_missing", "set rollback_project_dir"),
        ("denied", "git_denied", "git -C /srv/app fetch --tags"),
        ("unreachable", "git_unreachable", "git -C /srv/app ls-remote --tags origin"),
        ("other", "git_failed", "git -C /srv/app status"),
    ],
)
def test_every_way_git_fails_has_its_own_command(kind, code, command):
    found = stack.git_refusal(kind, "what was found", "/srv/app")
    assert found.code == code
    assert command in found.next


@pytest.mark.parametrize(
    ("found", "code", "said", "command"),
    [
        (stack.service_refusal("api", ["db", "web"]), "service_missing", "found db, web", "config --services"),
        (stack.image_unset_refusal("api"), "image_unset", "api has no image:", "rollback_image_source=build"),
        (stack.malformed_refusal("a/b"), "tag_malformed", "'a/b'", "-e release="),
        (
            stack.tag_refusal("v9", ["v2", "v1"], "/srv/app"),
            "tag_unknown",
            "v9; the newest tags are v2, v1",
            "ls-remote",
        ),
        (stack.migrations_refusal("v1", "p/m", "/srv/app"), "migrations_missing", "no directory p/m", "ls-tree"),
        (
            stack.no_previous_refusal(
                "v2", [{"release": "v2", "verdict": "good"}, {"release": "v1", "verdict": "bad"}]
            ),
            "no_previous",
            "other than v2; it knows v2 (good), v1 (bad)",
            "-e release=",
        ),
    ],
)
def test_every_refusal_says_what_was_found_and_what_to_type(found, code, said, command):
    assert found.code == code
    assert said in found.message
    assert command in found.next


def test_a_disk_is_full_below_the_minimum_only():
    assert stack.disk_refusal("/d", 2048, 2048) is None
    found = stack.disk_refusal("/d", 2047, 2048)
    assert found.code == "disk_full"
    assert "/d has 2047 MB free" in found.message


def test_a_lock_names_its_holder_and_how_to_go_on():
    lock = _lock.Lock(True, "r1", "alice", "503", "2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z")
    found = stack.lock_refusal(lock)
    assert "alice" in found.message
    assert "-e rollback_resume=r1" in found.next
    assert "ansible-playbook lock.yml -e rollback_lock_break=r1" in found.next
    assert "lock.yml -e rollback_lock_break=unreadable" in stack.lock_refusal(_lock.Lock(held=True)).next


KEPT = {"hosts": {}, "database": {"undone": []}}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps(KEPT), KEPT),
        (json.dumps({"hosts": {}, "database": {}}), None),
        (json.dumps({"hosts": {}}), None),
        (json.dumps(KEPT)[:-3], None),
        ("[]", None),
        (None, None),
    ],
)
def test_a_plan_that_an_earlier_try_kept_counts_when_it_is_whole(text, found):
    assert stack.kept_plan(text) == found


@pytest.mark.parametrize("name", ["v1.4.2", "release_7", "2026-01-01", "v" * 128])
def test_a_release_is_a_tag_of_git_and_of_a_registry(name):
    assert stack.is_release_name(name)


@pytest.mark.parametrize(
    "name", ["", "a/b", "-v1", ".v1", "v1..2", "v1.", "v1.lock", "v 1", "v1\n", "v1~1", "v1;reboot", "v" * 129]
)
def test_what_only_one_of_them_accepts_is_no_release(name):
    assert not stack.is_release_name(name)


def test_long_lists_of_local_changes_are_cut():
    found = stack.changes_refusal([f"f{number}" for number in range(7)], "/srv/app")
    assert "f4 and 2 more" in found.message
    assert "f5" not in found.message
