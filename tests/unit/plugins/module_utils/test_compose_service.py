# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which containers of a service stay and which go, what HAProxy says of them, and the assets that are carried along."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _compose_service as service

WANTED = service.Wanted("h1", "r:5000/web:v1", "sha256:v1", 1)


def member(name, config_hash="h1", image="sha256:v1", state="running", health="healthy", created="2026-01-01", **rest):
    return service.Member(name, name, state, health, image, config_hash, created, **rest)


def names(members):
    return [one.name for one in members]


def archive(files, folder="static"):
    """A folder as the engine hands it out, directories included."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:") as tar:
        folders = {folder} | {f"{folder}/{name.rpartition('/')[0]}" for name in files if "/" in name}
        for path in sorted(folders):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.uid, entry.mode = len(content), 1000, 0o640
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def unpacked(made):
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        return {entry.name: (entry, tar.extractfile(entry).read() if entry.isfile() else None) for entry in tar}


def test_a_container_counts_as_current_only_with_the_definition_and_the_image_that_are_wanted():
    three = service.Wanted("h1", "r:5000/web:v1", "sha256:v1", 3)
    found = service.divide([member("a"), member("b", config_hash="h0"), member("c", image="sha256:v0")], three)
    assert (names(found.current), names(found.old)) == (["a"], ["b", "c"])


def test_of_two_current_containers_the_healthy_one_stays():
    fresh = member("fresh", state="created", health="", created="2026-01-02")
    found = service.divide([fresh, member("healthy")], WANTED)
    assert (names(found.current), names(found.old)) == (["healthy"], ["fresh"])


def test_of_two_that_never_started_the_newest_stays():
    found = service.divide([member(day, state="created", health="", created=day) for day in ("1", "2")], WANTED)
    assert (names(found.current), names(found.old)) == (["2"], ["1"])


@pytest.mark.parametrize(
    "state, health, restarts, said",
    [
        ("running", "healthy", 0, "ready"),
        ("running", "", 0, "ready"),
        ("running", "starting", 0, "waiting"),
        ("running", "unhealthy", 0, "failed"),
        ("created", "", 0, "waiting"),
        ("restarting", "", 1, "waiting"),
        ("restarting", "", 3, "failed"),
        ("running", "starting", 3, "failed"),
        ("exited", "", 0, "failed"),
    ],
)
def test_a_container_is_ready_waited_for_or_given_up(state, health, restarts, said):
    assert service.readiness(member("a", state=state, health=health, restarts=restarts)) == said


def test_a_container_is_read_as_the_engine_shows_it():
    inspected = {
        "Id": "abc",
        "Name": "/connectin-web-1",
        "Image": "sha256:v1",
        "Created": "2026-01-01T00:00:00Z",
        "RestartCount": 2,
        "State": {"Status": "running", "Health": {"Status": "starting"}},
        "Config": {"Labels": {"com.docker.compose.config-hash": "h1"}},
        "NetworkSettings": {"Networks": {"a": {"IPAddress": "172.18.0.3"}, "b": {"IPAddress": ""}, "c": None}},
    }
    assert service.member(inspected) == service.Member(
        "abc", "connectin-web-1", "running", "starting", "sha256:v1", "h1", "2026-01-01T00:00:00Z", ("172.18.0.3",), 2
    )
    assert service.member({}).running is False


def test_composes_hashes_and_replicas_are_read():
    assert service.read_hashes("api 0ba4\nweb 6100\n\n") == {"api": "0ba4", "web": "6100"}
    assert service.replicas({}) == service.replicas({"scale": 0}) == 1
    assert service.replicas({"deploy": {"replicas": 3}}) == service.replicas({"scale": 3}) == 3
    with pytest.raises(ValueError):
        service.read_services("{}")


# HAProxy 3.0: one server serves, one was drained by the runtime API, one has no address.
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight
4 api 1 api1 172.18.0.2 2 0 1 1 86 15 3 4 6 0 0 0 api 5007 - 0 0 - - 0
4 api 2 api2 172.18.0.5 2 8 1 1 4 15 3 4 6 0 0 0 api 5007 - 0 0 - - 0
4 api 3 api3 - 0 32 1 1 95 1 0 0 14 0 0 0 api 5007 - 0 0 - - 0

"""


def test_haproxys_servers_are_found_with_their_addresses_and_whether_they_get_requests():
    found = service.proxy_servers(STATE)
    assert [(one.name, one.address, one.running, one.drained, one.up) for one in found] == [
        ("api1", "172.18.0.2", True, False, True),
        ("api2", "172.18.0.5", True, True, False),
        ("api3", "-", False, False, False),
    ]
    assert service.proxy_servers("Unknown command\n") == []


def test_the_requests_that_a_server_has_in_hand_are_counted():
    stat = "# pxname,svname,qcur,qmax,scur,smax,\napi,api1,0,0,3,9,\napi,BACKEND,0,0,4,9,\napi,api2,,,,,\n"
    assert service.proxy_sessions(stat) == {("api", "api1"): 3, ("api", "BACKEND"): 4}


def test_the_next_container_carries_the_files_of_the_one_before():
    assert service.carry(["a.js", "v2/m.js"], [], 1000.0, 60) == [service.Carried(1060.0, ("a.js", "v2/m.js"))]


def test_what_was_carried_already_keeps_its_own_time_and_is_dropped_after_it():
    earlier = [service.Carried(1030.0, ("young.js",)), service.Carried(990.0, ("old.js",))]
    found = service.carry(["own.js", "young.js", "old.js"], earlier, 1000.0, 60)
    assert found == [service.Carried(1060.0, ("own.js",)), service.Carried(1030.0, ("young.js",))]


def test_the_archive_holds_what_the_new_container_lacks_with_owners_and_modes_and_never_its_own_files():
    before = archive({"chunks/a.js": b"newer", "chunks/same.js": b"newer", "v2/m.js": b"m", "css/same.css": b"c"})
    carried = [service.Carried(9.0, ("chunks/a.js", "chunks/same.js", "v2/m.js", "css/same.css"))]
    made, count = service.overlap_archive(before, ["chunks/same.js", "css/same.css"], carried)
    found = unpacked(made)
    assert count == 2
    assert set(found) == {
        "static/chunks",
        "static/chunks/a.js",
        "static/v2",
        "static/v2/m.js",
        "rollback-assets.json",
    }
    entry, content = found["static/chunks/a.js"]
    assert (content, entry.uid, entry.mode) == (b"newer", 1000, 0o640)


def test_what_a_container_carries_is_read_from_the_list_that_was_put_into_it():
    carried = [service.Carried(9.0, ("a.js",))]
    made, _count = service.overlap_archive(archive({"a.js": b"1"}), [], carried)
    assert service.read_carried(unpacked(made)["rollback-assets.json"][1].decode()) == carried


@pytest.mark.parametrize("text", ["", "{", "{}", "null", '[{"until": 1}]', '[{"until": "x", "files": []}]', "[1]"])
def test_a_list_that_is_none_of_ours_says_nothing(text):
    assert service.read_carried(text) == []


def test_what_is_no_archive_is_an_error():
    with pytest.raises(ValueError):
        service.archive_files(json.dumps({"message": "no such container"}).encode().ljust(512))
    assert service.archive_files(archive({"chunks/a.js": b"1"})) == ["chunks/a.js"]
