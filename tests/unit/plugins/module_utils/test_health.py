from __future__ import annotations

import jmespath
import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _health
from ansible_collections.connectin.rollback.plugins.module_utils._health import Answer, Attempt, Endpoint, Poll

API = Endpoint(name="api", host="app1", url="http://app1:3000/health")
RAW = {
    "name": "api",
    "host": "app1",
    "url": "http://app1:3000/health",
    "status": [200],
    "body": "",
    "contains": "",
    "assets_prefix": "",
    "headers": {},
}
GOOD = Attempt(Answer(200, "ok"), "")
BAD = Attempt(Answer(503), "answered 503, expected 200")


def search(expression):
    return jmespath.compile(expression).search


def test_an_endpoint_is_made_of_its_options():
    assert _health.endpoint({**RAW, "status": [200, 204], "headers": {"X-Probe": 1}}) == Endpoint(
        name="api", host="app1", url=RAW["url"], status=(200, 204), headers={"X-Probe": "1"}
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("url", "app1:3000/health", "is no http or https address"),
        ("url", "ftp://app1/", "is no http or https address"),
        ("url", "http:///health", "is no http or https address"),
        ("url", "http://app1:port/", "is no http or https address"),
        ("url", "http://app1:99999/", "is no http or https address"),
        ("url", "http://app1/a b", "is no http or https address"),
        ("url", "http://[::1/", "is no http or https address"),
        ("status", [], "status is empty"),
        ("assets_prefix", "_next/", "is no path on the same host"),
        ("assets_prefix", "//cdn/_next/", "is no path on the same host"),
        ("headers", {"X y": "1"}, "its header 'X y'"),
    ],
)
def test_an_endpoint_that_cannot_be_polled_is_refused_by_name(option, value, message):
    with pytest.raises(_health.HealthError, match="^The endpoint 'api' cannot be polled") as refusal:
        _health.endpoint({**RAW, option: value})
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("option", "value"), [("url", "http://me:tok-1234@app1/"), ("headers", {"Authorization": "Bearer tok-1234\n"})]
)
def test_a_secret_in_the_wrong_place_is_refused_without_being_shown(option, value):
    with pytest.raises(_health.HealthError) as refusal:
        _health.endpoint({**RAW, option: value})
    assert "tok-1234" not in str(refusal.value)


@pytest.mark.parametrize("expression", ["status ==", "a[", "a && nosuch(b)", "length(nosuch(@))"])
def test_a_bad_expression_is_named_before_anything_is_polled(expression):
    asked = Endpoint(name="api", url="http://app1/", body=expression)
    with pytest.raises(_health.HealthError) as refusal:
        _health.compile_expressions([API, asked], jmespath)
    assert repr(expression) in str(refusal.value)
    assert "'api'" in str(refusal.value)


def test_each_expression_is_compiled_once():
    asked = Endpoint(name="api", url="http://app1/", body="status == 'ok'")
    compiled = _health.compile_expressions([asked, asked, API], jmespath)
    assert list(compiled) == ["status == 'ok'"]
    assert compiled["status == 'ok'"]({"status": "ok"}) is True


@pytest.mark.parametrize(
    ("asked", "answer", "reason"),
    [
        ({}, Answer(200, "ok"), ""),
        ({"status": (200, 204)}, Answer(204), ""),
        ({}, Answer(503), "answered 503, expected 200"),
        ({"status": (200, 204)}, Answer(500), "answered 500, expected 200 or 204"),
        ({}, Answer(error="connection refused"), "connection refused"),
        (
            {},
            Answer(302, location="/login?token=abc"),
            "answered 302 to /login, expected 200 (redirects are not followed)",
        ),
        ({"status": (302,)}, Answer(302, location="/login"), ""),
        ({"contains": "ConnectIn"}, Answer(200, "<h1>ConnectIn</h1>"), ""),
        ({"contains": "ConnectIn"}, Answer(200, "<h1>Oops</h1>"), "the body does not contain 'ConnectIn'"),
    ],
)
def test_an_answer_is_held_against_what_is_expected(asked, answer, reason):
    assert _health.judge(Endpoint(name="api", url="http://app1/", **asked), answer, None) == reason


@pytest.mark.parametrize(
    ("expression", "body", "reason"),
    [
        ("status == 'ok'", '{"status": "ok"}', ""),
        ("status == 'ok'", '{"status": "down"}', "the body does not hold \"status == 'ok'\""),
        ("database", "{}", "the body does not hold 'database'"),
        ("workers", '{"workers": 3}', ""),
        ("workers", '{"workers": 0}', "the body does not hold 'workers'"),
        ("workers", '{"workers": []}', "the body does not hold 'workers'"),
        ("a", "<html>", "the body is no JSON"),
        ("a", "", "the body is no JSON"),
        ("a", '{"a": NaN}', "the body is no JSON"),
        ("a", "[" * 100_000, "the body is no JSON"),
    ],
)
def test_a_body_is_held_against_its_expression(expression, body, reason):
    asked = Endpoint(name="api", url="http://app1/", body=expression)
    assert _health.judge(asked, Answer(200, body), search(expression)) == reason


def test_a_body_that_an_expression_cannot_be_applied_to_is_a_reason():
    asked = Endpoint(name="api", url="http://app1/", body="length(items) > `0`")
    reason = _health.judge(asked, Answer(200, "{}"), search(asked.body))
    assert reason.startswith("the body does not fit 'length(items) > `0`': ")


PAGE = """<!doctype html><html><head>
<link rel=stylesheet href="/_next/static/a.css?dpl=1&amp;x=2"><script src='/_next/static/b.js' async></script>
<SCRIPT SRC=/_next/static/b.js></SCRIPT><a href="/about">x</a><img src="//cdn.example/_next/static/c.png">
<img src="/_next/static/d e.svg#icon"><img src><script>var s = '<img src="/_next/static/no.js">';</script>"""


def test_the_assets_of_a_page_are_its_distinct_links_below_the_prefix():
    assert _health.asset_paths(PAGE, "/_next/static/") == [
        "/_next/static/a.css?dpl=1&x=2",
        "/_next/static/b.js",
        "/_next/static/d e.svg",
    ]


def test_an_address_on_another_host_is_no_asset():
    assert "//cdn.example/_next/static/c.png" not in _health.asset_paths(PAGE, "/")


def test_what_goes_over_the_wire_is_escaped_once():
    assert _health.request_target("http://app1:3000") == "/"
    assert _health.request_target("http://app1/a%20b/ü?q=1#top") == "/a%20b/%C3%BC?q=1"
    assert _health.request_target("/_next/static/[id] x.js?a=b&c") == "/_next/static/[id]%20x.js?a=b&c"


WEB = Endpoint(name="web", url="http://web/", assets_prefix="/_next/static/")


def site(**others):
    """A host that serves PAGE at / and ``others``, everything else with 200."""
    return lambda target: others.get(target) or Answer(200, PAGE if target == "/" else "")


def test_a_page_whose_assets_are_all_there_is_healthy():
    assert _health.attempt(WEB, site(), None).reason == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(404), "1 of 3 assets failed: /_next/static/b.js answered 404"),
        (Answer(302), "1 of 3 assets failed: /_next/static/b.js answered 302"),
        (Answer(error="no answer within 5 s"), "1 of 3 assets failed: /_next/static/b.js no answer within 5 s"),
    ],
)
def test_a_page_that_misses_an_asset_is_not_healthy(answer, reason):
    made = _health.attempt(WEB, site(**{"/_next/static/b.js": answer}), None)
    assert made.reason == reason
    assert made.answer.status == 200


def test_a_page_without_any_asset_proves_nothing():
    reason = _health.attempt(WEB, lambda _target: Answer(200, "<h1>Application error</h1>"), None).reason
    assert reason == "the page names no asset that starts with /_next/static/"


def test_the_assets_of_a_page_that_is_wrong_itself_are_not_asked():
    asked = []
    made = _health.attempt(WEB, lambda target: asked.append(target) or Answer(500, PAGE), None)
    assert (asked, made.reason) == (["/"], "answered 500, expected 200")


def poll(count=1, consecutive=1, interval=1.0, deadline=10.0, now=100.0):
    endpoints = [Endpoint(name=f"api{number}", url=f"http://app{number}/") for number in range(count)]
    return Poll(endpoints, consecutive, interval, deadline, now)


def test_all_are_asked_at_once_and_each_again_only_after_its_answer():
    state = poll(3)
    assert list(state.due(100.0)) == [0, 1, 2]
    assert list(state.due(105.0)) == []


def test_one_that_is_not_ready_is_asked_again_after_the_interval():
    state = poll(2)
    list(state.due(100.0))
    state.answered(1, BAD, 100.5)
    assert list(state.due(101.4)) == []
    assert list(state.due(101.5)) == [1]


def test_one_that_is_ready_is_not_asked_again():
    state = poll()
    list(state.due(100.0))
    state.answered(0, GOOD, 100.25)
    assert list(state.due(109.0)) == []
    assert state.over(100.25)
    (report,) = state.report(101.0)["endpoints"]
    assert (report["ready"], report["seconds"], report["attempts"]) == (True, 0.25, 1)


def test_only_so_many_in_a_row_are_ready():
    state = poll(consecutive=3)
    for second, made in enumerate([GOOD, GOOD, BAD, GOOD, GOOD]):
        state.answered(0, made, 100.0 + second)
        assert not state.over(100.0 + second)
    state.answered(0, GOOD, 105.0)
    assert state.over(105.0)
    (report,) = state.report(105.0)["endpoints"]
    assert (report["attempts"], report["failures"]) == (6, ["answered 503, expected 200"])


def test_it_is_over_at_the_deadline():
    state = poll()
    assert not state.over(109.99)
    assert state.over(110.0)


def test_it_waits_for_the_next_one_due_but_not_beyond_the_deadline():
    state = poll(2, interval=4)
    assert state.wait(100.0) == 0
    list(state.due(100.0))
    assert state.wait(103.0) == 7
    state.answered(0, BAD, 103.0)
    assert state.wait(104.0) == 3
    state.answered(1, BAD, 109.0)
    list(state.due(107.0))
    assert state.wait(109.5) == 0.5
    assert state.wait(111.0) == 0


def test_the_last_five_distinct_reasons_are_kept():
    state = poll()
    for reason in "abacdef":
        state.answered(0, Attempt(Answer(500), reason), 101.0)
    assert state.report(110.0)["endpoints"][0]["failures"] == ["a", "c", "d", "e", "f"]
    assert state.report(110.0)["not_ready"][0]["reason"] == "f"


def test_what_is_not_ready_is_told_with_its_reason():
    state = Poll([API, Endpoint(name="web", url="http://web/")], 2, 1, 10, 0.0)
    state.answered(0, BAD, 1.0)
    assert state.report(10.0)["not_ready"] == [
        {"name": "api", "host": "app1", "url": API.url, "reason": "answered 503, expected 200"},
        {"name": "web", "host": "", "url": "http://web/", "reason": "no answer within the deadline of 10 s"},
    ]
    assert state.message().startswith(
        "2 of 2 endpoints were not ready within 10 s: api on app1 (http://app1:3000/health): answered 503, expected "
        "200; web (http://web/): no answer within the deadline of 10 s. "
    )
    assert "curl -sv 'http://app1:3000/health'" in state.message()


def test_one_that_was_good_but_not_often_enough_is_told_as_that():
    state = poll(consecutive=3)
    state.answered(0, BAD, 108.0)
    state.answered(0, GOOD, 109.0)
    assert state.report(110.0)["not_ready"][0]["reason"] == (
        "as expected only 1 of 3 times in a row, before that answered 503, expected 200"
    )


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (None, None),
        (Answer(error="connection refused"), None),
        (Answer(200, '{"a": [1]}'), {"a": [1]}),
        (Answer(503, "<h1>" + "x" * 1000), "<h1>" + "x" * 496),
        (Answer(200, '["' + "x" * 30_000 + '"]'), '["' + "x" * 498),
        (Answer(204, ""), ""),
    ],
)
def test_a_body_is_shown_parsed_or_in_part(answer, shown):
    assert _health.shown_body(answer) == shown
