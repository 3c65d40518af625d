"""The providers, versions and prices of the reference, for advice only: no request fails because of them."""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT_PROVIDER: Final = "flux-pro"
DEFAULT_SIDE: Final = 1024
"""Pixels, for width and height alike (reference, "Create a job")."""


class Provider(NamedTuple):
    """One provider: the type it makes and the versions that its page shows."""

    type: str
    versions: tuple[str, ...] = ()


PROVIDERS: Final[dict[str, Provider]] = {
    "flux-pro": Provider("IMAGE", ("flux-pro", "flux-pro-1.1")),
    "flux-ultra": Provider("IMAGE", ("flux-pro-1.1-ultra",)),
    "flux-kontext": Provider("IMAGE", ("flux-kontext-pro", "flux-kontext-max")),
    "flux-krea": Provider("IMAGE", ("flux-krea",)),
    "flux-dev": Provider("IMAGE"),
    "stable-diffusion": Provider("IMAGE"),
    "seedream": Provider("IMAGE"),
    "kling": Provider("VIDEO"),
    "minimax": Provider("VIDEO"),
    "veo3": Provider("VIDEO"),
    "runway": Provider("VIDEO"),
    "seedance": Provider("VIDEO"),
    "wan": Provider("VIDEO"),
    "vidu": Provider("VIDEO"),
    "runway-i2v": Provider("VIDEO"),
    "hedra": Provider("AVATAR"),
    "elevenlabs": Provider("AUDIO"),
}


class PixelPrice(NamedTuple):
    """What a picture from `least` up to `most` pixels (None: and above) costs, in credits."""

    least: int
    most: int | None
    low: int
    high: int


PRICES_BY_PIXELS: Final = (
    PixelPrice(512 * 512, 1024 * 1024, 10, 20),
    PixelPrice(2048 * 2048, None, 30, 50),
)
"""Reference, "Credits": it gives no price for smaller pictures, or for sizes in between."""
PRICES_BY_PROVIDER: Final[dict[str, int]] = {"flux-dev": 50}
"""Credits for a picture of any size, where the provider's page says so (reference, "Credits")."""


def type_of(provider: str) -> str:
    """Return the media type that a provider makes; an unknown provider counts as making pictures."""
    known = PROVIDERS.get(provider)
    return known.type if known else "IMAGE"


def owner_of(version: str) -> str | None:
    """Return the provider whose page shows this version, or None."""
    return next((name for name, known in PROVIDERS.items() if version in known.versions), None)
