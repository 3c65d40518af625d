"""The providers and versions that the reference names: data for advice, never a reason to refuse."""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT_PROVIDER: Final = "flux-pro"
DEFAULT_SIDE: Final = 1024
"""Pixels, for width and height alike (reference, "Create a job")."""


class Provider(NamedTuple):
    """What is known of one provider: the type it makes and the versions that its page shows."""

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


def type_of(provider: str) -> str:
    """Return the media type a provider is known to make; a provider not known makes pictures."""
    known = PROVIDERS.get(provider)
    return known.type if known else "IMAGE"


def owner_of(version: str) -> str | None:
    """Return the provider whose page shows this version, or None."""
    return next((name for name, known in PROVIDERS.items() if version in known.versions), None)
