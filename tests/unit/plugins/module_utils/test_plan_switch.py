# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a second container of a service can run beside the first, and what a killed switch leaves for the next plan."""

from __future__ import annotations

import json

import plans
import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _stack
from rollback_readings import container, stack

DEFINED = {"published": [], "host_network": False, "container_name": "", "replicas": 1, "read_only": False}
CALLED = {**DEFINED, "callers": ["web"]}


def reading(runs="v1.2.0", web=None, api=None):
    found = stack(runs)
    found["services"]["web"]["definition"] = {**DEFINED, **(web or {})}
    found["services"]["api"]["definition"] = {**DEFINED, **(api or {})}
    return found


def plan(found, **changes):
    return plans.plan({"app1": found}, **{"switch": "start_first", **changes})


def test_start_first_goes_through_where_no_service_holds_what_only_one_container_can_have():
    assert plan(reading())["refusals"] == []


@pytest.mark.parametrize(
    "web, code, said",
    [
        ({"published": ["3111"]}, "start_first_port", "web publishes port 3111 of the host"),
        ({"host_network": True}, "start_first_port", "web uses the host's network"),
        ({"container_name": "site"}, "start_first_name", "web has container_name: site"),
    ],
)
def test_start_first_is_refused_where_two_containers_cannot_be(web, code, said):
    made = plan(reading(web=web))
    assert [(entry["host"], entry["code"]) for entry in made["refusals"]] == [("app1", code)]
    assert said in made["refusals"][0]["message"]
    assert "rollback_switch=stop_first" in made["refusals"][0]["next"]


def test_stop_first_asks_for_none_of_that():
    taken = {"published": ["3111"], "container_name": "site", "host_network": True}
    assert plan(reading(web=taken), switch="stop_first")["refusals"] == []


def test_a_service_that_is_not_rolled_back_may_publish_what_it_likes():
    found = reading(api={"published": ["5007"]})
    codes = [entry["code"] for entry in plan(found, parts=("frontend",))["refusals"]]
    assert "start_first_port" not in codes


def test_kept_builds_are_refused_since_both_containers_follow_one_link():
    made = plan(reading(), frontend_source="artifact")
    assert [entry["code"] for entry in made["refusals"]] == ["start_first_artifact"]


def web_of(made):
    return made["hosts"]["app1"]["services"]["web"]


def test_a_container_of_the_target_beside_an_old_one_is_not_there_yet():
    found = stack("v1.1.0")
    assert web_of(plan(found))["change"] is False
    found["services"]["web"]["others"] = [container("web", "v1.2.0")]
    assert web_of(plan(found))["change"] is True


def test_two_containers_of_the_target_need_no_change():
    found = stack("v1.1.0")
    found["services"]["web"]["others"] = [container("web", "v1.1.0")]
    assert web_of(plan(found))["change"] is False


def test_the_frontends_assets_overlap_where_its_new_container_can_be_made_beside_the_old_one():
    made = plan(reading(), switch="stop_first", asset_overlap=60)
    assert web_of(made)["overlap"] is True
    assert made["hosts"]["app1"]["services"]["api"]["overlap"] is False
    assert web_of(plan(reading(), asset_overlap=0))["overlap"] is False


@pytest.mark.parametrize("key, value", [("container_name", "site"), ("read_only", True)])
def test_where_it_cannot_the_plan_warns_and_goes_on(key, value):
    made = plan(reading(web={key: value}), switch="stop_first", asset_overlap=60)
    assert web_of(made)["overlap"] is False
    assert [line for line in made["warnings"] if f"web has {key}" in line]
    assert made["refusals"] == []


def test_the_rendered_project_tells_what_decides_how_a_container_is_replaced():
    rendered = {
        "name": "app",
        "services": {
            "web": {
                "image": "web:1",
                "ports": [{"mode": "ingress", "target": 3111, "published": "3111", "protocol": "tcp"}, {"target": 9}],
                "container_name": "site",
                "deploy": {"replicas": 2},
                "read_only": True,
            },
            "api": {"network_mode": "host"},
        },
    }
    found = _stack.read_project(json.dumps(rendered)).definitions
    assert found["web"] == {
        "published": ["3111"],
        "host_network": False,
        "container_name": "site",
        "replicas": 2,
        "read_only": True,
        "callers": [],
    }
    assert found["api"] == {**DEFINED, "host_network": True, "callers": []}


@pytest.mark.parametrize(
    "url, found",
    [
        ("http://api:5007", ["web"]),
        ("http://api", ["web"]),
        ("http://user:word@api/v1", ["web"]),
        ("http://one:1,http://api:2", ["web"]),
        ("http://proxy:5007/api", []),
        ("http://api.example.com", []),
        ("http://api-two:5007", []),
        ("http://my-api:5007", []),
        ("api", []),
        (None, []),
    ],
)
def test_who_calls_a_service_by_its_name_is_seen_in_the_environments_urls(url, found):
    services = {"api": {"environment": {"SELF": "http://api:5007"}}, "web": {"environment": {"API_URL": url}}}
    rendered = json.dumps({"name": "app", "services": services})
    assert _stack.read_project(rendered).definitions["api"]["callers"] == found


def test_the_plan_warns_of_who_calls_past_the_proxy_where_that_is_to_drain():
    def warned(**changes):
        return [line for line in plan(reading(api=CALLED), **changes)["warnings"] if "past the proxy" in line]

    assert warned() == [
        "app1: api is called by its name, past the proxy, from web: a request between them may be lost in the switch; "
        "let it go through the proxy, see docs/switch.md"
    ]
    assert warned(switch="stop_first") == []
    assert warned(parts=("frontend",)) == []
    assert warned(components={"app1": ["frontend"]}) == []
