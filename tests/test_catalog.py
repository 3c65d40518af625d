"""The providers and versions of the reference: data for advice, never a reason to refuse."""

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


def test_the_catalog_is_the_table_of_the_reference() -> None:
    """Every provider with its type, and no other."""
    table = {provider: kind for kind, providers in REFERENCE.items() for provider in providers.split()}
    assert {name: known.type for name, known in catalog.PROVIDERS.items()} == table
    assert set(table.values()) == set(MediaType)


def test_the_versions_are_those_of_the_reference() -> None:
    """Only the four flux pages show versions."""
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
    """One that is not known makes pictures, which is what this library is mostly for."""
    assert catalog.type_of(provider) == kind


def test_a_version_has_one_owner() -> None:
    """So that advice can name it; a version that is not shown has none."""
    for name, known in catalog.PROVIDERS.items():
        assert all(catalog.owner_of(version) == name for version in known.versions)
    assert catalog.owner_of("flux-pro-9") is None


def test_the_default_is_a_provider_of_pictures() -> None:
    """What is made of a bare prompt."""
    assert catalog.type_of(catalog.DEFAULT_PROVIDER) == MediaType.IMAGE
    assert catalog.DEFAULT_PROVIDER in catalog.PROVIDERS
    assert catalog.DEFAULT_SIDE == 1024
