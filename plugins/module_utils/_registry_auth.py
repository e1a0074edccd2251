# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The credentials that ``docker login`` stored, for asking a registry through the engine."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils._image_reference import DOCKER_HUB

# Docker Hub has a key of its own, for historical reasons.
_HUB_KEY = "https://index.docker.io/v1/"


def registry_auth(config_text: str, registry: str, helper: Callable[[str, str], str]) -> str:
    """The content of X-Registry-Auth for a registry, '' when nobody logged in to it.

    ``config_text`` is ~/.docker/config.json. ``helper(program suffix, server)`` asks docker-credential-<suffix> and
    returns its JSON output, or '' when it has none.
    """
    config = _object(config_text)
    for server in _HUB_KEY if registry == DOCKER_HUB else registry, f"https://{registry}":
        per_registry = _mapping(config.get("credHelpers")).get(server)
        suffix = per_registry or config.get("credsStore")
        found = _from_helper(helper(suffix, server)) if isinstance(suffix, str) and suffix else {}
        found = found or _stored(_mapping(_mapping(config.get("auths")).get(server)))
        if found:
            payload = json.dumps({**found, "serveraddress": server}).encode("utf-8")
            return base64.urlsafe_b64encode(payload).decode("ascii")
    return ""


def _stored(entry: Mapping[str, Any]) -> dict[str, str]:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return {}
    # Docker pads what it stores with zero bytes.
    return {"username": user, "password": password.strip("\0")} if colon else {}


def _from_helper(output: str) -> dict[str, str]:
    answer = _object(output)
    user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    if not secret:
        return {}
    # The helpers' protocol marks a token with this user name.
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}


def _object(text: str) -> dict[str, Any]:
    try:
        return _mapping(json.loads(text)) if text else {}
    except ValueError:
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
