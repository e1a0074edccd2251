# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils._registry_auth import registry_auth


def no_helper(suffix, server):
    raise AssertionError("no helper was named")


def decoded(header):
    return json.loads(base64.urlsafe_b64decode(header))


def config(server, user="deploy", password="p:w"):
    return json.dumps({"auths": {server: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}})


def test_a_stored_login_is_sent_with_its_registry():
    header = registry_auth(config("registry:5000"), "registry:5000", no_helper)
    assert decoded(header) == {"username": "deploy", "password": "p:w", "serveraddress": "registry:5000"}


def test_docker_hub_has_its_own_key():
    header = registry_auth(config("https://index.docker.io/v1/"), "docker.io", no_helper)
    assert decoded(header)["username"] == "deploy"


def test_a_login_stored_with_its_scheme_is_found():
    assert decoded(registry_auth(config("https://ghcr.io"), "ghcr.io", no_helper))["username"] == "deploy"


def test_an_identity_token_goes_before_a_password():
    text = json.dumps({"auths": {"ghcr.io": {"auth": "", "identitytoken": "tok"}}})
    assert decoded(registry_auth(text, "ghcr.io", no_helper)) == {"identitytoken": "tok", "serveraddress": "ghcr.io"}


def test_the_helper_of_a_registry_is_asked_before_the_store():
    asked = []

    def helper(suffix, server):
        asked.append((suffix, server))
        return json.dumps({"Username": "u", "Secret": "s"})

    text = json.dumps({"credsStore": "pass", "credHelpers": {"ghcr.io": "gh"}})
    assert decoded(registry_auth(text, "ghcr.io", helper)) == {
        "username": "u",
        "password": "s",
        "serveraddress": "ghcr.io",
    }
    assert asked == [("gh", "ghcr.io")]
    registry_auth(text, "registry:5000", helper)
    assert asked[-1] == ("pass", "registry:5000")


def test_a_helper_that_answers_with_a_token_gives_an_identity_token():
    text = json.dumps({"credsStore": "pass"})
    header = registry_auth(text, "ghcr.io", lambda _s, _r: json.dumps({"Username": "<token>", "Secret": "t"}))
    assert decoded(header)["identitytoken"] == "t"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"auths": []}', '{"auths": {"ghcr.io": {"auth": "%%%"}}}'])
def test_without_a_login_nothing_is_sent(text):
    assert registry_auth(text, "ghcr.io", no_helper) == ""
