"""Reading the forms of a request."""

from typing import Any

import pytest

from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.orders import Order, from_flat, from_generate


def test_generate_form() -> None:
    """The nested form, with every field."""
    given = {
        "type": "VIDEO",
        "provider": "kling",
        "input": {"text": "waves"},
        "options": {"duration": 5, "aspectRatio": "16:9", "width": 640, "height": 360},
        "webhookUrl": "https://example.com/hook",
    }
    assert from_generate(given) == Order("VIDEO", "kling", "waves", 640, 360, 5, "https://example.com/hook")


def test_flat_form_has_a_default_size() -> None:
    """The documentation says 1024 × 1024 for a request without a size."""
    assert from_flat("IMAGE", {"service": "flux-pro", "prompt": "a fox"}) == Order(
        "IMAGE", "flux-pro", "a fox"
    )


def test_picture_to_animate_replaces_the_prompt() -> None:
    """runway-i2v takes an image's URL and no text."""
    url = "https://example.com/a.jpg"
    nested = {"type": "VIDEO", "provider": "runway-i2v", "input": {"image": url}}
    assert from_generate(nested).prompt == from_flat("VIDEO", {"service": "r", "imageUrl": url}).prompt == url


def test_unknown_names_are_accepted() -> None:
    """More providers and options exist than are documented."""
    given = {"type": "HOLOGRAM", "provider": "new", "input": {"text": "x"}, "options": {"depth": 3}}
    assert from_generate(given).provider == "new"


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"provider": "p", "input": {"text": "x"}}, "type is required"),
        ({"type": "IMAGE", "input": {"text": "x"}}, "provider is required"),
        ({"type": "IMAGE", "provider": "p"}, "text or image is required"),
        ({"type": "IMAGE", "provider": "p", "input": {"text": "  "}}, "text or image is required"),
        ({"type": "IMAGE", "provider": "p", "input": {"text": 7}}, "must be a text"),
        ({"type": "IMAGE", "provider": "p", "input": "x"}, "input must be an object"),
    ],
)
def test_incomplete_order_is_rejected(given: dict[str, Any], about: str) -> None:
    """The error names the missing field."""
    with pytest.raises(ApiError, match=about) as refused:
        from_generate(given)
    assert (refused.value.code, refused.value.status) == ("BAD_USER_INPUT", 400)


@pytest.mark.parametrize("side", [0, -1, 16_385, 1.5, "1024", True])
@pytest.mark.parametrize("name", ["width", "height"])
def test_impossible_size_is_rejected(name: str, side: object) -> None:
    """Width and height are whole numbers from 1 to 16384."""
    with pytest.raises(ApiError, match=f"{name} must be a whole number of pixels from 1 to 16384"):
        from_flat("IMAGE", {"service": "p", "prompt": "x", name: side})


@pytest.mark.parametrize("duration", [0, -1, "5", True, float("nan"), float("inf")])
def test_impossible_duration_is_rejected(duration: object) -> None:
    """A duration is a positive, finite number of seconds."""
    with pytest.raises(ApiError, match="duration must be"):
        from_flat("VIDEO", {"service": "p", "prompt": "x", "duration": duration})
