# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _image_reference as image

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("postgres", "postgres", "", ""),
        ("postgres:16", "postgres", "16", ""),
        ("10.0.0.1:5000/connectin/api", "10.0.0.1:5000/connectin/api", "", ""),
        ("10.0.0.1:5000/connectin/api:v1.2.0", "10.0.0.1:5000/connectin/api", "v1.2.0", ""),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io/a/b", "", DIGEST),
        (f"ghcr.io/a/b:v1@{DIGEST}", "ghcr.io/a/b", "v1", DIGEST),
    ],
)
def test_a_reference_is_taken_apart_and_put_together_again(text, repository, tag, digest):
    parsed = image.parse(text)
    assert (parsed.repository, parsed.tag, parsed.digest) == (repository, tag, digest)
    assert str(parsed) == text


def test_another_tag_drops_the_digest_of_the_old_one():
    assert str(image.parse(f"r:5000/a:v2@{DIGEST}").with_tag("v1")) == "r:5000/a:v1"


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("postgres:16", "docker.io"),
        ("bitnami/redis", "docker.io"),
        ("localhost/app", "localhost"),
        ("registry:5000/app", "registry:5000"),
        ("ghcr.io/a/b:v1", "ghcr.io"),
    ],
)
def test_the_registry_is_the_one_that_docker_login_names(text, registry):
    assert image.parse(text).registry == registry


def test_a_local_digest_counts_only_in_the_same_repository():
    digests = [f"mirror:5000/app@sha256:{'b' * 64}", f"app@{DIGEST}"]
    assert image.digest_in(digests, image.parse("docker.io/library/app:v1")) == DIGEST
    assert image.digest_in(digests, image.parse("other/app:v1")) == ""
