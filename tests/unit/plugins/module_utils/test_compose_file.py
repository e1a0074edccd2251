# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
import yaml
from ansible_collections.connectin.rollback.plugins.module_utils import _compose_file as compose

MAIN = "/srv/app/docker-compose.yml"
OVERRIDE = "/srv/app/docker-compose.override.yml"
ENV = "/srv/app/.env"
DIGEST = "@sha256:" + "a" * 64


def files(text, env=None, override=None):
    texts = {MAIN: text}
    if override is not None:
        texts[OVERRIDE] = override
    if env is not None:
        texts[ENV] = env
    return compose.Files(tuple(path for path in (MAIN, OVERRIDE) if path in texts), ENV, texts)


def pinned(text, env=None, override=None, **tags):
    return compose.set_tags(files(text, env, override), tags or {"api": "v1"}, yaml)


def service(image, name="api"):
    return f"services:\n  {name}:\n    image: {image}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("r:5000/a/api:v2", "r:5000/a/api:v1"),
        ("r:5000/a/api", "r:5000/a/api:v1"),
        ("api", "api:v1"),
        (f"r/api:v2{DIGEST}", "r/api:v1"),
        (f"r/api{DIGEST}", "r/api:v1"),
        ("'r/api:v2'", "'r/api:v1'"),
        ('"r/api:v2"   # the API: v2', '"r/api:v1"   # the API: v2'),
        ("${REGISTRY}/api:v2", "${REGISTRY}/api:v1"),
        ("${REGISTRY:-r:5000}/api:v2", "${REGISTRY:-r:5000}/api:v1"),
        ("$REGISTRY/${TEAM}/api", "$REGISTRY/${TEAM}/api:v1"),
        ("&image r/api:v2", "&image r/api:v1"),
        ("!!str r/api:v2", "!!str r/api:v1"),
    ],
)
def test_only_the_tag_changes_in_the_compose_file(before, after):
    texts, changes = pinned(service(before))
    assert texts == {MAIN: service(after)}
    assert [vars(change) for change in changes] == [
        {"service": "api", "file": MAIN, "line": 3, "before": f"    image: {before}", "after": f"    image: {after}"}
    ]


def test_every_other_byte_of_the_file_stays():
    text = (
        "\ufeff# Prüfung \U0001f680\r\nx-a: &a {k: 1}\r\nservices:\r\n  web: {image: 'r/web:v2', <<: *a}\r\n"
        '  api:\r\n    image:   r/api:v2   # keep\r\n    command: ["r/api:v2"]\r\n\r\n# no newline at the end'
    )
    texts, changes = pinned(text, api="v1", web="v10")
    assert texts[MAIN] == text.replace("image:   r/api:v2", "image:   r/api:v1").replace("r/web:v2", "r/web:v10")
    assert [(change.service, change.line) for change in changes] == [("api", 6), ("web", 4)]


def test_a_tag_that_stands_there_already_is_no_change():
    assert pinned(service("r/api:v1")) == ({}, [])
    assert pinned(service("r/api:${TAG}"), "TAG=v1") == ({}, [])
    assert pinned(service("${IMAGE}"), "IMAGE='r/api:v1'") == ({}, [])


@pytest.mark.parametrize(
    "image", ["r/api:${TAG}", "r/api:$TAG", "r/api:${TAG:-v9}", "r/api:${TAG:?set it}", "r/api:${TAG-}"]
)
def test_a_tag_from_a_variable_is_set_in_the_env_file(image):
    texts, changes = pinned(service(image), "SECRET=x\nTAG=v2 # now\nB=1")
    assert texts == {ENV: "SECRET=x\nTAG=v1 # now\nB=1"}
    assert [vars(change) for change in changes] == [
        {"service": "api", "file": ENV, "line": 2, "before": "TAG=v2 # now", "after": "TAG=v1 # now"}
    ]


def test_a_variable_that_has_only_a_default_is_appended_to_the_env_file():
    texts, changes = pinned(service("r/api:${TAG:-v9}"), "A=1\n")
    assert texts == {ENV: "A=1\nTAG=v1\n"}
    assert (changes[0].line, changes[0].before, changes[0].after) == (2, "", "TAG=v1")
    assert pinned(service("r/api:${TAG:-v9}"))[0] == {ENV: "TAG=v1\n"}


def test_a_digest_behind_a_variable_tag_goes_as_well():
    texts, changes = pinned(service(f"r/api:${{TAG}}{DIGEST}"), "TAG=v2\n")
    assert texts == {MAIN: service("r/api:${TAG}"), ENV: "TAG=v1\n"}
    assert [change.file for change in changes] == [ENV, MAIN]


def test_the_tag_inside_a_variable_that_holds_the_whole_image_is_set():
    assert pinned(service("${IMAGE}"), f'IMAGE="r:5000/api:v2{DIGEST}"\n')[0] == {ENV: 'IMAGE="r:5000/api:v1"\n'}
    assert pinned(service("${IMAGE:-r:5000/api:v2}"), "A=1\n")[0] == {ENV: "A=1\nIMAGE=r:5000/api:v1\n"}


def test_one_variable_can_set_several_services_to_one_tag_only():
    text = service("r/api:${TAG}") + "  web:\n    image: r/web:${TAG}\n"
    assert pinned(text, "TAG=v2\n", api="v1", web="v1")[0] == {ENV: "TAG=v1\n"}
    with pytest.raises(compose.ComposeFileError, match="api and web both take their image from TAG"):
        pinned(text, "TAG=v2\n", api="v1", web="v3")


def test_services_that_a_variable_changes_without_being_asked_are_named():
    text = service("r/api:${TAG}") + "  worker:\n    image: r/api:${TAG}\n  db:\n    image: postgres:16\n"
    assert compose.sharing(files(text, "TAG=v2\n"), {"api": "v1"}, yaml) == {"TAG": ["worker"]}
    assert compose.sharing(files(text, "TAG=v2\n"), {"api": "v1", "worker": "v1"}, yaml) == {}
    assert compose.sharing(files(text, "TAG=v2\n"), {"db": "15"}, yaml) == {}


def test_the_last_file_that_sets_the_image_counts():
    override = service("r/api:v3")
    assert pinned(service("r/api:v2"), override=override)[0] == {OVERRIDE: service("r/api:v1")}
    assert pinned(service("r/api:v2"), override="services:\n  api:\n    restart: always\n")[0] == {
        MAIN: service("r/api:v1")
    }


def test_a_merge_or_an_extension_that_brings_no_image_is_no_obstacle():
    text = (
        "x-base: &base\n  restart: always\nservices:\n  base:\n    restart: always\n  api:\n    <<: *base\n"
        "    extends: base\n    image: r/api:v2\n"
    )
    assert pinned(text)[0] == {MAIN: text.replace("v2", "v1")}
    override = "x-b: &b {restart: always}\nservices:\n  api: {<<: *b, extends: base}\n  base: {restart: always}\n"
    assert pinned(service("r/api:v2"), override=override)[0] == {MAIN: service("r/api:v1")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: &i r/api:v2\nservices:\n  api:\n    image: *i\n  web:\n    image: *i\n", "docker-compose.yml:1 .*anchor"),
        ("services:\n  api: &a\n    image: r/api:v2\n  web: *a\n", "docker-compose.yml:3 .*anchor"),
        ("services:\n  api: &a\n    image: r/api:v2\n  web:\n    <<: *a\n", "anchor"),
        ("x-b: &b\n  image: r/api:v2\nservices:\n  api:\n    <<: *b\n", r"inherited at .*:5 \(a YAML merge\)"),
        ("x-b: &b\n  image: r/api:v2\nservices:\n  api:\n    <<: [*b]\n", "a YAML merge"),
        ("services:\n  base:\n    image: r:v2\n  api:\n    extends: base\n", r"inherited at .*:5 \(extends\)"),
        ("services:\n  api:\n    extends:\n      file: x.yml\n      service: b\n", "extends"),
        ("services:\n  a: {extends: api}\n  api: {extends: a}\n", "extends"),
        ("services:\n  api:\n    image: |\n      r/api:v2\n", "block scalar"),
        ("services:\n  api:\n    image: >-\n      r/api:v2\n", "block scalar"),
        ('services:\n  api:\n    image: "r/ap\\u0069:v2"\n', "escapes"),
        ("services:\n  api:\n    image: [r/api]\n", "not a text"),
        ("services:\n  api:\n    image:\n", "not a text"),
        ("services:\n  api:\n    image: !reset null\n", "not a text"),
        ("services:\n  api:\n    build: .\n", "api has no image: in"),
        ("services:\n  web: {}\n", "no service api in .*; found web"),
        ("include: [more.yml]\n", "found none.*includes further files"),
        ("", "no service api"),
        ("services:\n  api:\n\timage: x\n", "is no YAML"),
        ("a: 1\n---\nb: 2\n", "is no YAML"),
        (service("r/api:${A}-${B}"), "put together from pieces"),
        (service("r/api:v${A}"), "put together from pieces"),
        (service("r/api:${TAG:+x}"), r"Write \$\{TAG\}"),
        (service("${IMAGE}"), "Write IMAGE=repository:tag"),
        (service("${REGISTRY}/${NAME}"), "may hold its tag too"),
        (service("r/$NAME"), "may hold its tag too"),
    ],
)
def test_what_cannot_be_followed_is_an_error_that_says_what_to_write(text, said):
    with pytest.raises(compose.ComposeFileError, match=f"(?s){said}"):
        pinned(text)


def test_an_override_that_inherits_its_image_hides_the_one_of_the_main_file():
    override = "services:\n  api:\n    extends: {file: other.yml, service: api}\n"
    with pytest.raises(compose.ComposeFileError, match="override.yml:3"):
        pinned(service("r/api:v2"), override=override)


@pytest.mark.parametrize("tag", ["", "-v1", "a/b", "a:b", "v1\n", "v" * 129])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(compose.ComposeFileError, match="cannot be the tag of api"):
        pinned(service("r/api:v2"), api=tag)


def test_anchors_in_a_circle_end():
    assert pinned("x: &x\n  y: *x\n" + service("r/api:v2"))[1]


def test_the_files_of_a_project_are_found_in_composes_order():
    names = {"docker-compose.yml", "docker-compose.override.yml", "compose.yaml", "README.md"}
    assert compose.project_files("/p", [], names) == ["/p/compose.yaml", "/p/docker-compose.override.yml"]
    assert compose.project_files("/p", [], names - {"compose.yaml"})[0] == "/p/docker-compose.yml"
    assert compose.project_files("/p", [], {"docker-compose.override.yml"}) == []


def test_named_files_go_before_the_variable_and_both_before_the_usual_names():
    names = {"docker-compose.yml"}
    assert compose.project_files("/p", ["a.yml", "../b.yml", "/c.yml"], names, "d.yml") == [
        "/p/a.yml",
        "/b.yml",
        "/c.yml",
    ]
    assert compose.project_files("/p", [], names, "d.yml:e.yml") == ["/p/d.yml", "/p/e.yml"]
    assert compose.project_files("/p", [], names, "d.yml;e.yml", ";") == ["/p/d.yml", "/p/e.yml"]
