# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _image_hold as hold

API = hold.Wanted("api", "v1", "r:5000/api:v1", "sha256:dd", "sha256:11")


def release(name, verdict="good", **services):
    return {"release": name, "verdict": verdict, "services": services}


def inspect(**images):
    return {name.replace("__", ":"): {"Id": identifier} for name, identifier in images.items()}.get


def test_the_newest_good_releases_are_wanted_whatever_failed_in_between():
    releases = [
        release("v5", "bad", api={"image": "a:v5"}),
        release("v4", "good", api={"image": "a:v4"}, web={"image": "w:v4", "digest": "sha256:d"}),
        release("v3", "unknown", api={}),
        release("v2", "good", api={"image": "a:v2", "image_id": None}),
        release("v1", "good", api={"image": "a:v1"}),
    ]
    assert hold.wanted(releases, 2) == [
        hold.Wanted("api", "v4", "a:v4"),
        hold.Wanted("web", "v4", "w:v4", "sha256:d"),
        hold.Wanted("api", "v2", "a:v2"),
    ]
    assert hold.wanted(releases, 0) == hold.wanted(releases, -1) == []


@pytest.mark.parametrize(
    ("local", "reference", "image_id"),
    [
        ({"r:5000/api:v1": "sha256:11", "sha256:11": "sha256:11"}, "r:5000/api:v1", "sha256:11"),
        # The tag was moved: what the ledger proves counts.
        ({"r:5000/api:v1": "sha256:99", "sha256:11": "sha256:11"}, "sha256:11", "sha256:11"),
        # Pulled again, the image may have another id under the digest that the ledger knows.
        ({"r:5000/api:v1": "sha256:22", "r:5000/api@sha256:dd": "sha256:22"}, "r:5000/api:v1", "sha256:22"),
        ({"r:5000/api@sha256:dd": "sha256:22"}, "sha256:22", "sha256:22"),
    ],
)
def test_an_image_is_found_by_what_the_ledger_proves(local, reference, image_id):
    found = hold.find(API, {name: {"Id": identifier} for name, identifier in local.items()}.get)
    assert (found.reference, found.image_id) == (reference, image_id)


def test_a_tag_that_leads_elsewhere_is_no_proof():
    assert hold.find(API, inspect(**{"r:5000/api:v1": "sha256:99"})) is None


def test_without_a_proof_the_tag_is_all_there_is():
    bare = hold.Wanted("api", "v1", "api:v1")
    assert hold.find(bare, inspect(api__v1="sha256:11")).reference == "api:v1"
    assert hold.find(bare, inspect()) is None
    assert hold.find(hold.Wanted("api", "v1"), inspect()) is None


def test_holders_are_kept_made_and_removed():
    web, old = hold.Wanted("web", "v1", "web:v1"), hold.Wanted("api", "v0", "api:v0")
    found = {API: hold.Found(API, "r:5000/api:v1", "sha256:11"), web: hold.Found(web, "web:v1", "sha256:33"), old: None}
    right = hold.Holder("c1", "api", "v1", "sha256:11")
    other_image = hold.Holder("c2", "web", "v1", "sha256:99")
    past = hold.Holder("c3", "api", "v9", "sha256:09")
    decision = hold.decide([API, web, old], found, [right, other_image, past])
    assert decision == hold.Decision((other_image, past), (found[web],), (found[API],), (old,))
    twice = hold.Holder("c4", "api", "v1", "sha256:11")
    assert hold.decide([API], found, [right, twice]).remove == (twice,)


def test_a_holder_runs_nothing_of_its_image_and_is_nobody_elses():
    found = hold.Found(API, "r:5000/api:v1", "sha256:11")
    labels = {"com.docker.compose.project": "connectin", "com.docker.compose.service": "api", "x": "y"}
    asked = hold.container(found, {"Config": {"Labels": labels, "Volumes": {"/data": {}}}})
    assert asked["Entrypoint"] == ["true"]
    assert asked["Healthcheck"] == {"Test": ["NONE"]}
    assert (asked["HostConfig"]["NetworkMode"], asked["HostConfig"]["RestartPolicy"]) == ("none", {"Name": "no"})
    # A label of the image can only be replaced; an empty project is nobody's.
    assert asked["Labels"] == {
        "com.docker.compose.project": "",
        "com.docker.compose.service": "",
        "connectin.rollback.hold": "v1",
        "connectin.rollback.service": "api",
    }
    assert asked["HostConfig"]["Mounts"] == [{"Type": "tmpfs", "Target": "/data"}]
    assert API.name == "connectin-rollback-hold-api-v1"
    container = {"Id": "c", "Image": "sha256:11", "Config": asked}
    assert hold.holder(container) == hold.Holder("c", "api", "v1", "sha256:11", "r:5000/api:v1")
    assert hold.container(found, {})["HostConfig"]["Mounts"] == []
