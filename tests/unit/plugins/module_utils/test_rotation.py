# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _rotation

SOCKET = "/run/haproxy/admin.sock"


def said(*states: str, output: tuple[str, ...] = ("", ""), **more) -> dict:
    """One answer of the module, as a loop over load balancers and backends registers it."""
    return {
        "item": ["lb1", ""],
        "state_after": [{"status": state, "scur": "0"} for state in states] or None,
        "output": list(output),
        **more,
    }


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (said("DRAIN", "DRAIN (agent)"), []),
        (said("DOWN"), []),
        (said("DRAIN", "UP"), ["lb1: DRAIN, UP"]),
        (said("DRAIN", output=("", "100 (initial 100)")), []),
        (said("DRAIN", output=("Permission denied\n", "")), ["lb1: Permission denied"]),
        (said(), ["lb1: no backend has the server app1"]),
        ({"item": ["lb1", ""], "unreachable": True, "msg": "timed out"}, ["lb1: it cannot be reached"]),
        ({"item": ["lb1", ""], "msg": "unable to find server"}, ["lb1: unable to find server"]),
        ({"item": ["lb1", ""]}, [f"lb1: nothing answers at {SOCKET}"]),
        ({"item": ["lb1", ""], "skipped": True}, []),
    ],
)
def test_a_load_balancer_that_did_not_do_what_it_was_asked_is_named_with_the_reason(result, expected):
    assert _rotation.rotation_failures([result], "^(DRAIN|DOWN)", "app1", SOCKET) == expected


def test_each_load_balancer_is_judged_by_itself():
    lost = {"item": ["lb2", ""], "unreachable": True}
    assert _rotation.rotation_failures([said("DRAIN"), lost], "^DRAIN", "app1", SOCKET) == ["lb2: it cannot be reached"]


def hooks(drain: str, undrain: str, command: tuple[str, ...] = (), file: str = "") -> dict:
    return {
        "drain": {"tasks": drain, "command": list(command), "file": file},
        "undrain": {"tasks": undrain, "command": list(command), "file": file},
    }


@pytest.mark.parametrize(
    ("given", "balancers", "words"),
    [
        (hooks("", ""), [], []),
        (hooks("haproxy", "haproxy"), ["lb1"], []),
        (hooks("haproxy", "haproxy"), [], ["rollback_drain_tasks is haproxy", "rollback_undrain_tasks is haproxy"]),
        (hooks("command", "command", ("lbctl",)), [], []),
        (hooks("command", "command"), [], ["rollback_drain_command is empty", "rollback_undrain_command is empty"]),
        (hooks("mine.yml", "mine.yml", file="/srv/mine.yml"), [], []),
        (hooks("mine.yml", "mine.yml"), [], ["rollback_drain_tasks is mine.yml", "rollback_undrain_tasks is mine.yml"]),
        (hooks("haproxy", ""), ["lb1"], ["Only one of"]),
    ],
)
def test_hooks_that_cannot_work_are_told_before_anything_is_done(given, balancers, words):
    problems = _rotation.hook_problems(given, balancers, "connectin_lb")
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems))


# Rotation


def statistics(*servers: tuple[str, str]) -> str:
    """Return HAProxy's statistics: a frontend, servers of one backend, the backend."""
    lines = ["# pxname,svname,qcur,status,weight,", "http,FRONTEND,,OPEN,,"]
    lines += [f"api,{name},0,{status},1," for name, status in servers]
    return "\n".join([*lines, "api,BACKEND,0,UP,1,"]) + "\n"


@pytest.mark.parametrize("status", ["MAINT", "DRAIN", "MAINT (via api/app2)", "MAINT (resolution)", "DRAIN (agent)"])
def test_a_server_in_maintenance_or_draining_is_out_of_rotation(status):
    assert _rotation.rotation_doubts(["app1"], [], statistics(("app1", status))) == {"app1": ""}


@pytest.mark.parametrize("status", ["UP", "DOWN", "no check", "UP 1/3", "NOLB"])
def test_a_server_that_would_serve_as_soon_as_it_answers_is_a_doubt(status):
    doubts = _rotation.rotation_doubts(["app1"], [], statistics(("app1", status), ("app2", "MAINT")))
    assert doubts == {"app1": f"the load balancer says {status}: it would serve again as soon as it answers"}


def test_a_server_that_serves_in_one_backend_of_two_is_a_doubt():
    text = statistics(("app1", "MAINT"), ("app1", "UP"))
    assert "says MAINT, UP" in _rotation.rotation_doubts(["app1"], [], text)["app1"]


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ("", "nothing confirms that it is out of rotation (rollback_rotation_url is not set)"),
        (statistics(("app2", "MAINT")), "the load balancer has no server of that name"),
        ("<html><body>\nhello\n</body></html>", "the load balancer has no server of that name"),
    ],
)
def test_what_the_load_balancer_does_not_confirm_is_a_doubt(stats, expected):
    assert _rotation.rotation_doubts(["app1"], [], stats) == {"app1": expected}


def test_a_load_balancer_that_could_not_be_asked_is_a_doubt_with_the_reason():
    doubts = _rotation.rotation_doubts(["app1", "app2"], ["app2"], "", "Connection refused")
    assert "could not be asked" in doubts["app1"]
    assert doubts["app1"].endswith("Connection refused")
    assert doubts["app2"] == ""


def test_the_operators_word_is_enough_for_the_host_that_it_names():
    doubts = _rotation.rotation_doubts(["app1", "app2"], ["app1"], statistics(("app1", "UP"), ("app2", "UP")))
    assert doubts["app1"] == ""
    assert doubts["app2"] != ""


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([("app1", "MAINT"), ("app2", "UP")], {"app1": True}),
        ([("app1", "UP"), ("app2", "DRAIN (agent)")], {"app2": True}),
        ([("app1", "MAINT"), ("app1", "UP")], {"app1": False}),
        ([("app1", "DOWN"), ("app2", "no check")], {}),
        ([("app9", "MAINT")], {}),
    ],
)
def test_the_hosts_that_a_load_balancer_keeps_out_of_rotation_are_listed(servers, expected):
    assert _rotation.drained_hosts(statistics(*servers), {"app1": "app1", "app2": "app2"}) == expected


def test_each_host_is_asked_about_in_its_own_backends():
    rows = "# pxname,svname,status\napi,app1,UP\nweb,app1,MAINT\napi,app2,MAINT\nweb,app2,UP\n"
    backends = {"app1": ["api"], "app2": ["api"]}
    assert _rotation.drained_hosts(rows, {"app1": "app1", "app2": "app2"}, backends) == {"app2": True}
    assert _rotation.drained_hosts(rows, {"app1": "app1", "app2": "app2"}, {"app1": ["api"]}) == {"app2": False}
    assert _rotation.rotation_doubts(["app2"], [], rows, backends=backends) == {"app2": ""}
    assert _rotation.rotation_doubts(["app2"], [], rows)["app2"] != ""


def test_without_statistics_no_host_is_known_to_be_drained():
    assert _rotation.drained_hosts("", {"app1": "app1"}) == {}


def test_without_excluded_hosts_there_are_no_doubts():
    assert _rotation.rotation_doubts([], [], "") == {}
