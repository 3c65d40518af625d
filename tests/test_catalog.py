"""The providers and versions of the reference: data for advice, never a reason to reject a request."""

from __future__ import annotations

import pytest

from doitong_async import catalog
from doitong_async.types import MediaType

REFERENCE = {
    "IMAGE": "flux-pro flux-ultra flux-kontext flux-krea flux-dev stable-diffusion seedream",
    "VIDEO": "kling minimax veo3 runway seedance wan vidu runway-i2v",
    "AVATAR": "hedra",
    "AUDIO": "elevenlabs",
}


def test_the_catalog_equals_the_table_of_the_reference() -> None:
    """It has every provider with its type, and no other."""
    table = {provider: kind for kind, providers in REFERENCE.items() for provider in providers.split()}
    assert {name: known.type for name, known in catalog.PROVIDERS.items()} == table
    assert set(table.values()) == set(MediaType)


def test_the_versions_equal_those_of_the_reference() -> None:
    """Only the four flux pages list versions."""
    assert {name: known.versions for name, known in catalog.PROVIDERS.items() if known.versions} == {
        "flux-pro": ("flux-pro", "flux-pro-1.1"),
        "flux-ultra": ("flux-pro-1.1-ultra",),
        "flux-kontext": ("flux-kontext-pro", "flux-kontext-max"),
        "flux-krea": ("flux-krea",),
    }


@pytest.mark.parametrize(
    ("provider", "kind"), [("flux-pro", "IMAGE"), ("wan", "VIDEO"), ("brand-new", "IMAGE")]
)
def test_a_provider_has_a_type(provider: str, kind: str) -> None:
    """An unknown provider makes pictures, the most common case."""
    assert catalog.type_of(provider) == kind


def test_a_version_has_one_owner() -> None:
    """So advice can name the provider; an undocumented version has none."""
    for name, known in catalog.PROVIDERS.items():
        assert all(catalog.owner_of(version) == name for version in known.versions)
    assert catalog.owner_of("flux-pro-9") is None


def test_the_default_provider_makes_pictures() -> None:
    """A bare prompt becomes a picture."""
    assert catalog.type_of(catalog.DEFAULT_PROVIDER) == MediaType.IMAGE
    assert catalog.DEFAULT_PROVIDER in catalog.PROVIDERS
    assert catalog.DEFAULT_SIDE == 1024
