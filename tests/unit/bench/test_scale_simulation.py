"""The simulated Docker of the scale bench does what Docker does, where a rollback would notice the difference."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest
import scale
from ansible_collections.connectin.rollback.plugins.module_utils import _docker_engine
from simulation import compose, fleet
from simulation.engine import REGISTRY, Engine, EngineError, registry

API = f"{REGISTRY}/connectin/api"
CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def engine():
    return Engine("sim1", "/", registry(fleet.RELEASES))


@pytest.fixture
def project(tmp_path):
    write(tmp_path, "v1.2.0")
    return tmp_path


def write(folder, release):
    text = fleet.COMPOSE.replace("@REGISTRY@", REGISTRY).replace("@RELEASE@", release)
    (folder / "docker-compose.yml").write_text(text, encoding="utf-8")
    (folder / ".env").write_text(f"WEB_TAG={release}\nAPI_PORT=20001\nWEB_PORT=20002\n", encoding="utf-8")


def docker(engine, folder, *args):
    return compose.run(engine, args, str(folder), {})


def running(engine):
    return {
        item.service: (item.image.release, item.state)
        for item in sorted(engine.containers.values(), key=lambda c: c.name)
    }


def test_the_project_is_rendered_with_the_env_file(engine, project):
    shown = json.loads(docker(engine, project, "compose", "config", "--format", "json").out)
    assert shown["name"] == "connectin"
    assert shown["services"]["web"]["image"] == f"{REGISTRY}/connectin/web:v1.2.0"
    assert shown["services"]["api"]["ports"] == ["20001:5007"]


@pytest.mark.parametrize(
    "text, value",
    [("${SET}", "x"), ("$SET", "x"), ("${UNSET:-y}", "y"), ("${EMPTY:-y}", "y"), ("${EMPTY-y}", ""), ("$$SET", "$SET")],
)
def test_variables_are_replaced_as_compose_does_it(text, value):
    assert compose.interpolate(text, {"SET": "x", "EMPTY": ""}) == value


def test_up_replaces_only_what_differs(engine, project):
    docker(engine, project, "compose", "up", "--detach")
    before = {item.service: item.identifier for item in engine.containers.values()}
    (project / ".env").write_text("WEB_TAG=v1.1.0\nAPI_PORT=20001\nWEB_PORT=20002\n", encoding="utf-8")
    docker(engine, project, "compose", "up", "--detach")
    after = {item.service: item.identifier for item in engine.containers.values()}
    assert running(engine) == {"api": ("v1.2.0", "running"), "web": ("v1.1.0", "running")}
    assert after["api"] == before["api"] and after["web"] != before["web"]


def test_up_without_a_pull_fails_where_the_image_is_not_local(engine, project):
    answer = docker(engine, project, "compose", "--progress", "json", "up", "--pull", "never", "--", "api")
    assert answer.rc == 1
    assert "No such image" in json.loads(answer.err)["message"]
    assert engine.containers == {}


def test_a_dry_run_changes_nothing(engine, project):
    assert "Pulling" in docker(engine, project, "compose", "pull", "--dry-run").err
    assert "Creating" in docker(engine, project, "compose", "up", "--dry-run").err
    assert engine.containers == {} and engine.tags == {}


def test_a_second_container_cannot_have_a_published_port_too(engine, project):
    docker(engine, project, "compose", "up", "--detach")
    answer = docker(engine, project, "compose", "up", "--no-recreate", "--scale", "api=2", "--", "api")
    assert answer.rc == 1
    assert "port is already allocated" in answer.err


def test_a_stopped_container_serves_nobody(engine, project):
    docker(engine, project, "compose", "up", "--detach")
    assert engine.serving(20001).service == "api"
    docker(engine, project, "compose", "stop", "api")
    assert engine.serving(20001) is None


def test_a_pull_by_digest_gives_the_image_no_tag(engine):
    digest = engine.look_up(f"{API}:v1.1.0").digest
    assert engine.pull(f"{API}:v1.1.0@{digest}")
    assert engine.find(f"{API}@{digest}")
    assert engine.find(f"{API}:v1.1.0") is None


def test_the_registry_has_no_release_that_was_never_pushed(engine):
    with pytest.raises(EngineError, match="manifest unknown"):
        engine.pull(f"{API}:v9.9.9")


def test_a_command_that_is_not_simulated_says_so(engine, project):
    answer = docker(engine, project, "compose", "watch")
    assert answer.rc == 125
    assert "compose watch is not simulated" in answer.err


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A fleet of one host, simulated by a process of its own."""
    with scale.folder(keep=False) as place:
        laid = fleet.lay_out(place, 1, scale.collection(CHECKOUT))
        with scale.simulator(laid) as state:
            yield laid, laid.hosts[0], state


def test_the_collection_reads_the_engine_over_its_socket(host):
    _laid, one, _state = host
    engine = _docker_engine.Engine(one.socket)
    containers = engine.containers("com.docker.compose.project=connectin")
    web = next(item for item in containers if item["Name"] == "/connectin-web-1")
    assert engine.read_file(web["Id"], "/app/.next/BUILD_ID") == "build-v1.2.0"
    assert engine.image(web["Image"])["RepoTags"] == [f"{REGISTRY}/connectin/web:v1.2.0"]


def test_a_host_s_python_has_the_simulated_docker_first(host):
    _laid, one, _state = host
    code = "import subprocess; print(subprocess.run(['docker', 'compose', 'version', '--short'], text=True).returncode)"
    done = subprocess.run([f"{one.root}/python3", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [compose.VERSION, "0"]
    assert Path(one.root, "cpu").read_text(encoding="utf-8").count("\n") == 2


def test_a_host_s_port_tells_the_release_of_its_container(host):
    _laid, one, _state = host
    with urllib.request.urlopen(f"http://127.0.0.1:{one.ports['api']}/health", timeout=5) as answer:
        assert json.load(answer)["version"] == "v1.2.0"


def test_a_fleet_that_is_not_on_the_target_is_no_measurement(host):
    laid, one, state = host
    scale.check(laid, state(), fleet.BEFORE)
    with pytest.raises(scale.BenchError, match="sim1 runs .*v1.2.0"):
        scale.check(laid, state(), fleet.TARGET)
