"""What both endpoints share: keys, requests per minute, headers, the record."""

import pytest

from doitong_async.emulator.api import ResetUnit, reset_text
from doitong_async.emulator.calls import Call
from doitong_async.emulator.limits import PlanLimits
from tests.emulator.direct import A_FOX, GENERATE, EmulatorApi, a_call, codes


@pytest.mark.parametrize("path", ["/graphql", "/v1/text_to_image", "/nothing"])
def test_unknown_key_is_401_before_anything_else(path: str) -> None:
    """On every path, without rate-limit headers, and without taking a permit."""
    api = EmulatorApi(key="right")
    call = a_call("POST", path, b"not json", headers={"Authorization": "Bearer wrong"})
    reply = api.api.answer(call)
    assert (reply.status, codes(reply)) == (401, ["UNAUTHENTICATED"])
    assert api.api.headers(call) == {}
    assert api.world.most_in_window == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer k"}, 200),
        ({"authorization": "bearer k"}, 200),
        ({"X-API-Key": "k"}, 200),
        ({"Authorization": "Basic k"}, 401),
        ({"X-API-Key": ""}, 401),
        ({}, 401),
    ],
)
def test_key_comes_in_either_header(headers: dict[str, str], status: int) -> None:
    """Both endpoints accept both headers."""
    api = EmulatorApi(key="k").api
    sent = {"Content-Type": "application/json", **headers}
    query, order = b'{"query": "{ __typename }"}', b'{"service": "s", "prompt": "p"}'
    assert api.answer(Call("POST", "/graphql", 0.0, 0.0, sent, body=query)).status == status
    assert api.answer(Call("POST", "/v1/text_to_image", 0.0, 0.0, sent, body=order)).status == status


def test_full_minute_is_a_429() -> None:
    """The code names the limit, and the headers say when it resets."""
    api = EmulatorApi(PlanLimits(1, 1, None))
    api.graphql(GENERATE, {"input": A_FOX}, now=0.5)
    reply = api.graphql("{ __typename }", now=60.0)
    assert (reply.status, codes(reply)) == (429, ["RATE_LIMITED"])
    headers = api.api.headers(a_call("POST", "/graphql", now=60.0))
    assert headers == {
        "X-RateLimit-Limit": "1",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1061",
    }
    assert api.graphql("{ __typename }", now=61.0).status == 200


@pytest.mark.parametrize(
    ("unit", "text"),
    [("epoch_s", "1003"), ("epoch_ms", "1002500"), ("seconds", "3"), ("iso", "1970-01-01T00:16:43Z")],
)
def test_reset_is_rounded_up(unit: ResetUnit, text: str) -> None:
    """A caller that waits until then must get a permit."""
    assert reset_text(unit, 2.5, 1000.0) == text


def test_record_lists_every_request() -> None:
    """Rejected requests too, with the headers as they were sent."""
    api = EmulatorApi("free")
    api.graphql(GENERATE, {"input": A_FOX}, now=1.0, Idempotency_Key="once")
    api.graphql(GENERATE, {"input": A_FOX}, now=2.0)
    made, refused = api.world.seen
    assert (made.at, made.kind, made.http_status, made.ids) == (1.0, "submit", 200, tuple(api.world.jobs))
    assert made.headers["Idempotency-Key"] == "once"
    assert (refused.at, refused.kind, refused.http_status, refused.ids) == (2.0, "submit", 429, ())
