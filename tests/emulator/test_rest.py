"""The REST endpoint."""

import pytest

from tests.emulator.box import OUTPUTS, Box, codes

BODY = {"service": "flux-pro", "prompt": "a fox", "width": 512, "height": 512, "version": "flux-pro-1.1"}


def test_job_is_created_and_seen_to_its_end() -> None:
    """The answer is the bare generation."""
    box = Box()
    made = box.call("POST", "/v1/text_to_image", BODY)
    assert made.status == 200
    assert (made.body["status"], made.body["creditCost"], made.body["type"]) == ("processing", 10, "IMAGE")
    seen = box.call("GET", f"/v1/generations/{made.body['id']}", now=10.0)
    assert (seen.body["status"], seen.body["url"]) == ("completed", f"{OUTPUTS}/{made.body['id']}.jpg")
    assert (box.world.count("submit"), box.world.count("poll")) == (1, 1)


def test_same_request_under_the_same_key_is_a_replay() -> None:
    """However its names are ordered; another body is a conflict."""
    box = Box()
    headers = {"Idempotency-Key": "once"}
    first = box.call("POST", "/v1/text_to_image", BODY, headers=headers)
    again = box.call("POST", "/v1/text_to_image", dict(reversed(BODY.items())), now=30.0, headers=headers)
    other = box.call("POST", "/v1/text_to_image", {**BODY, "prompt": "a hare"}, headers=headers)
    assert again == first
    assert (other.status, codes(other), box.world.charges) == (409, ["IDEMPOTENCY_CONFLICT"], 1)


@pytest.mark.parametrize("body", [b"not json", b"[]", {"service": "flux-pro"}, {"prompt": "a fox"}])
def test_incomplete_body_is_400(body: object) -> None:
    """In the documented shape of an error."""
    reply = Box().call("POST", "/v1/text_to_image", body)
    assert (reply.status, codes(reply)) == (400, ["BAD_USER_INPUT"])


def test_unknown_places() -> None:
    """404 for an id or a path that is not there, 405 for another method."""
    box = Box()
    assert box.call("GET", "/v1/generations/nothing").status == 404
    assert box.call("GET", "/v1/nothing").status == 404
    assert box.call("GET", "/v1/text_to_image").status == 405
    assert box.call("DELETE", "/v1/generations/nothing").status == 405
    assert {seen.kind for seen in box.world.seen} == {"poll", "other"}


def test_the_table_holds_for_rest_whatever_graphql_does() -> None:
    """error_status is about GraphQL alone."""
    box = Box(error_status="200", credits=0)
    assert box.call("POST", "/v1/text_to_image", BODY).status == 402
