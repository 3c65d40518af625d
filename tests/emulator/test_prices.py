"""The price table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.emulator.prices import price

sides = st.integers(1, 16_384)


@pytest.mark.parametrize(
    ("side", "cost"), [(64, 10), (512, 10), (1024, 20), (2048, 30), (4096, 50), (16_384, 50)]
)
def test_documented_prices(side: int, cost: int) -> None:
    """10 credits at 512×512, 20 at 1024×1024, 30 at 2048×2048, never more than 50."""
    assert price("IMAGE", "flux-pro", side, side) == cost


@given(sides, sides, sides, sides)
def test_more_pixels_never_cost_less(width: int, height: int, more: int, higher: int) -> None:
    """The price rises with the pixels."""
    small = price("IMAGE", "flux-pro", min(width, more), min(height, higher))
    assert small <= price("IMAGE", "flux-pro", max(width, more), max(height, higher))


def test_flux_dev_costs_fifty() -> None:
    """The flux-dev page says 50 for every size."""
    assert price("IMAGE", "flux-dev", 512, 512) == 50


@pytest.mark.parametrize("media_type", ["VIDEO", "AVATAR", "AUDIO"])
def test_other_media_have_an_invented_price(media_type: str) -> None:
    """Nothing is documented for them, so the size does not matter."""
    assert price(media_type, "any", 1, 1) == price(media_type, "any", 4096, 4096) > 0


def test_unknown_type_costs_what_an_image_costs() -> None:
    """An unknown type is accepted, so it needs a price."""
    assert price("HOLOGRAM", "new", 1024, 1024) == 20
