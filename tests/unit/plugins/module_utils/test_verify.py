"""What proves the target: endpoints to poll, and what a second reading contradicts."""

from __future__ import annotations

import plans
import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _verify
from rollback_readings import commit, container, kept_build, stack

API = {"url": "http://app1:5007/health", "body": "database == 'connected'", "version": "version"}
WEB = {"url": "http://app1:3111/", "assets_prefix": "/_next/static/"}


def plan(reading=None, database="default", **changes) -> dict:
    return plans.plan({"app1": reading or stack()}, database, **changes)


def endpoints(made=None, api=API, web=WEB, reading=None) -> dict:
    """Return the endpoints by service."""
    found = _verify.endpoints(made or plan(), {"app1": {"api": api, "web": web}}, {"app1": reading or after()})
    return {endpoint["name"]: endpoint for endpoint in found}


def after() -> dict:
    """Return a host on which the target runs."""
    return stack(runs="v1.1.0")


# Who asks


@pytest.mark.parametrize(
    ("failed", "asks"),
    [
        pytest.param([], "h2", id="the first with all parts"),
        pytest.param(["h2"], "h3", id="the next with all parts"),
        pytest.param(["h2", "h3"], "h1", id="any that is left"),
        pytest.param(["h1", "h2", "h3"], "", id="nobody is left"),
    ],
)
def test_the_host_that_asks_has_all_parts_and_was_not_held(failed, asks):
    hosts = {"h1": ["application"], "h2": ["application", "frontend"], "h3": ["application", "frontend"]}
    made = {"hosts": {host: {"components": parts} for host, parts in hosts.items()}}

    assert _verify.asking_host(made, failed) == asks


# Endpoints


def test_the_api_must_answer_healthy_and_as_the_target():
    assert endpoints()["api"] == {
        "name": "api",
        "host": "app1",
        "url": "http://app1:5007/health",
        "assets_prefix": "",
        "body": "(database == 'connected') && (version == 'v1.1.0')",
    }


def test_the_page_must_name_the_build_that_its_container_holds():
    assert endpoints()["web"] == {
        "name": "web",
        "host": "app1",
        "url": "http://app1:3111/",
        "assets_prefix": "/_next/static/",
        "body": "",
        "contains": "build-v1.1.0",
    }


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ({"url": "u", "body": "", "version": ""}, ""),
        ({"url": "u", "body": "ok", "version": ""}, "(ok)"),
        ({"url": "u", "body": "", "version": "v"}, "(v == 'v1.1.0')"),
        ({"url": "u"}, ""),
    ],
)
def test_an_empty_expression_is_not_checked(api, body):
    assert endpoints(api=api)["api"]["body"] == body


def test_a_build_that_the_page_does_not_name_need_not_be_looked_for():
    assert "contains" not in endpoints(web=dict(WEB, build_id_served=False))["web"]


def test_a_container_whose_build_is_not_known_proves_nothing_by_it():
    reading = after()
    reading["services"]["web"]["build_id"] = ""
    assert "contains" not in endpoints(reading=reading)["web"]


def test_a_batch_is_polled_before_anybody_read_which_build_it_holds():
    found = _verify.endpoints(plan(), {"app1": {"api": API, "web": WEB}}, {})
    assert ["contains" in endpoint for endpoint in found] == [False, False]


def test_only_the_hosts_of_a_batch_are_polled():
    made = plan()
    made["hosts"]["app2"] = made["hosts"]["app1"]
    found = _verify.endpoints(made, {"app2": {"api": API}}, {})
    assert [endpoint["host"] for endpoint in found] == ["app2"]


def test_a_service_that_is_not_in_the_plan_is_not_polled():
    assert list(endpoints(plan(components={"app1": ["frontend"]}))) == ["web"]


def test_a_host_without_settings_is_not_polled():
    assert _verify.endpoints(plan(), {}, {}) == []


def test_with_the_database_down_the_version_alone_is_proved():
    reading = stack(runs="v1.3.0", target="v1.2.0")
    reading["ledger"]["releases"][0].update(release="v1.3.0")
    reading["ledger"]["releases"][1].update(release="v1.2.0", migrations=reading["git"]["target_migrations"])
    made = plan(reading, {"error": "connection refused", "code": "database_unreachable"}, release="v1.2.0")
    assert made["refusals"] == []
    found = endpoints(made)
    assert found["api"]["body"] == "(version == 'v1.2.0')"
    assert found["api"]["status"] == [200, 503]
    assert "status" not in found["web"]


def test_the_database_alone_is_no_reason_to_expect_another_api():
    assert endpoints(plan(parts=("database",), policy="keep"))["api"]["body"] == "(database == 'connected')"


def test_a_database_that_went_down_expects_the_api_of_the_target():
    made = plan(stack(runs="v1.1.0"), parts=("database",))
    assert endpoints(made)["api"]["body"] == "(database == 'connected') && (version == 'v1.1.0')"


# The second reading


def test_a_host_on_which_the_target_runs_has_no_problems():
    assert _verify.problems(plan(), "app1", after()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"running": None}, "api: its container is not there, not running"),
        ({"running": container("api", "v1.1.0", state="exited")}, "api: its container is exited, not running"),
        (
            {"running": container("api", "v1.2.0")},
            "api: it runs registry.example:5000/connectin/api:v1.2.0 (111111111111), which is not the image of v1.1.0",
        ),
        ({"running": container("api", "v1.1.0", health="unhealthy")}, "api: its health check says unhealthy"),
        ({"running": container("api", "v1.1.0", health="starting")}, "api: its health check says starting"),
    ],
)
def test_what_contradicts_the_target_is_said(changes, expected):
    reading = after()
    reading["services"]["api"].update(changes)
    assert _verify.problems(plan(), "app1", reading) == [expected]


@pytest.mark.parametrize("health", ["", "none", None, "healthy"])
def test_a_container_without_a_health_check_is_not_unhealthy(health):
    reading = after()
    reading["services"]["api"]["running"] = container("api", "v1.1.0", health=health)
    assert _verify.problems(plan(), "app1", reading) == []


def test_with_the_database_down_an_unhealthy_container_is_no_news():
    reading = after()
    reading["services"]["api"]["running"] = container("api", "v1.1.0", health="unhealthy")
    made = plan(database={"error": "connection refused"})
    assert _verify.problems(made, "app1", reading) == []


def test_a_tag_that_was_moved_is_not_the_target():
    reading = after()
    reading["services"]["web"]["running"]["repo_digests"] = ["registry.example:5000/connectin/web@sha256:other"]
    (found,) = _verify.problems(plan(), "app1", reading)
    assert found.startswith("web: it runs registry.example:5000/connectin/web:v1.1.0")


def test_a_checkout_that_stayed_behind_is_a_problem():
    reading = after()
    reading["git"]["head"] = commit("v1.2.0")
    (found,) = _verify.problems(plan(), "app1", reading)
    assert found == f"the checkout is at {commit('v1.2.0')[:12]}, not at v1.1.0 ({commit('v1.1.0')[:12]})"


def test_a_rollback_of_one_part_does_not_look_at_the_checkout_or_at_other_images():
    made = plan(parts=("frontend",), database=None)
    reading = after()
    reading["git"]["head"] = commit("v1.2.0")
    reading["services"]["api"]["running"] = container("api", "v1.2.0")
    assert _verify.problems(made, "app1", reading) == []


def test_a_kept_build_is_proved_by_its_build_id_and_not_by_the_image_under_it():
    made = plan(kept_build(stack(), "v1.2.0", "build-v1.1.0"))
    reading = kept_build(after(), "v1.1.0", "build-v1.1.0")
    assert _verify.problems(made, "app1", reading) == []
    reading["services"]["web"]["build_id"] = "build-v1.2.0"
    assert _verify.problems(made, "app1", reading) == [
        "web: the kept build that is linked is build-v1.2.0, not build-v1.1.0"
    ]
    reading = kept_build(after(), "v1.1.0", "build-v1.1.0", served=False)
    assert _verify.problems(made, "app1", reading) == ["web: it does not serve build build-v1.1.0"]


def test_a_host_that_was_lost_is_a_problem_and_no_traceback():
    assert len(_verify.problems(plan(), "app1", {"unreachable": True, "msg": "timed out"})) >= 2
