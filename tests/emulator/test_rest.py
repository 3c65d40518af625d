"""The REST endpoint."""

import pytest

from tests.emulator.direct import OUTPUTS, EmulatorApi, codes

BODY = {"service": "flux-pro", "prompt": "a fox", "width": 512, "height": 512, "version": "flux-pro-1.1"}


def test_job_is_created_and_polled_until_it_completes() -> None:
    """The answer is the bare generation."""
    api = EmulatorApi()
    made = api.call("POST", "/v1/text_to_image", BODY)
    assert made.status == 200
    assert (made.body["status"], made.body["creditCost"], made.body["type"]) == ("processing", 10, "IMAGE")
    seen = api.call("GET", f"/v1/generations/{made.body['id']}", now=10.0)
    assert (seen.body["status"], seen.body["url"]) == ("completed", f"{OUTPUTS}/{made.body['id']}.jpg")
    assert (api.world.count("submit"), api.world.count("poll")) == (1, 1)


def test_same_request_under_the_same_key_is_a_replay() -> None:
    """In any order of its fields; another body is a conflict."""
    api = EmulatorApi()
    headers = {"Idempotency-Key": "once"}
    first = api.call("POST", "/v1/text_to_image", BODY, headers=headers)
    again = api.call("POST", "/v1/text_to_image", dict(reversed(BODY.items())), now=30.0, headers=headers)
    other = api.call("POST", "/v1/text_to_image", {**BODY, "prompt": "a hare"}, headers=headers)
    assert again == first
    assert (other.status, codes(other), api.world.charges) == (409, ["IDEMPOTENCY_CONFLICT"], 1)


@pytest.mark.parametrize("body", [b"not json", b"[]", {"service": "flux-pro"}, {"prompt": "a fox"}])
def test_incomplete_body_is_400(body: object) -> None:
    """In the documented shape of an error."""
    reply = EmulatorApi().call("POST", "/v1/text_to_image", body)
    assert (reply.status, codes(reply)) == (400, ["BAD_USER_INPUT"])


def test_unknown_ids_paths_and_methods() -> None:
    """404 for an unknown id or path, 405 for another method."""
    api = EmulatorApi()
    assert api.call("GET", "/v1/generations/nothing").status == 404
    assert api.call("GET", "/v1/nothing").status == 404
    assert api.call("GET", "/v1/text_to_image").status == 405
    assert api.call("DELETE", "/v1/generations/nothing").status == 405
    assert {seen.kind for seen in api.world.seen} == {"poll", "other"}


def test_rest_always_has_the_status_of_the_table() -> None:
    """error_status applies to GraphQL only."""
    api = EmulatorApi(error_status="200", credits=0)
    assert api.call("POST", "/v1/text_to_image", BODY).status == 402
