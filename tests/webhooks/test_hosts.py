"""Which output URLs of a webhook are trusted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from doitong_async import ConfigurationError, Generation, JobStatus
from doitong_async.webhooks.hosts import OutputHosts

OUTPUT_URL = "https://cdn.doitong.com/outputs/a.jpg"
UPDATE = Generation(id="a", status=JobStatus.COMPLETED, url=OUTPUT_URL, credit_cost=20)


@pytest.mark.parametrize(
    "url",
    [
        OUTPUT_URL,
        "https://CDN.doitong.com/a",
        "https://cdn.doitong.com:443/a?b=c#d",
        "https://cdn.doitong.com",
    ],
)
def test_the_documented_host_is_trusted(url: str) -> None:
    """Over https, in any letter case, on any port."""
    assert OutputHosts().allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.doitong.com/a",
        "https://doitong.com/a",
        "https://a.cdn.doitong.com/a",
        "https://cdn.doitong.com.evil.example/a",
        "https://cdn.doitong.com./a",
        "https://evil.example/cdn.doitong.com",
        "https://cdn.doitong.com@evil.example/a",
        "https://evil.example@cdn.doitong.com/a",
        "https://evil.example\\@cdn.doitong.com/a",
        "https://cdn.doitong.com\\.evil.example/a",
        "https:///a",
        "https:cdn.doitong.com/a",
        "//cdn.doitong.com/a",
        "/outputs/a.jpg",
        "ftp://cdn.doitong.com/a",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://cdn.doitong.com/a\n",
        " https://cdn.doitong.com/a",
        "https://cdn.doi\ttong.com/a",
        "https://[cdn.doitong.com/a",
        "https://127.0.0.1/a",
        "http://localhost/a",
        "",
    ],
)
def test_no_other_url_is_trusted(url: str) -> None:
    """Nor one that another URL parser might read as a different host."""
    assert not OutputHosts().allows(url)


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("http://127.0.0.1:8000/outputs/a.jpg", True),
        ("https://localhost/a", True),
        ("http://[::1]:8000/a", True),
        (OUTPUT_URL, True),
        ("http://10.0.0.1/a", False),
        ("http://127.0.0.1@evil.example/a", False),
        ("file://localhost/a", False),
    ],
)
def test_loopback_is_trusted_only_if_asked_for(url: str, is_allowed: bool) -> None:
    """Over plain http too, as an emulator serves it."""
    assert OutputHosts(loopback=True).allows(url) is is_allowed
    assert OutputHosts().allows(url) is (url == OUTPUT_URL)


def test_configured_hosts_replace_the_documented_one() -> None:
    """A single name may come as a string."""
    assert OutputHosts(["Media.example", "[2001:db8::1]"]).allows("https://media.example/a")
    assert OutputHosts(["[2001:db8::1]"]).allows("https://[2001:DB8::1]:8443/a")
    assert not OutputHosts(["media.example"]).allows(OUTPUT_URL)
    assert OutputHosts("media.example").allows("https://media.example/a")


@pytest.mark.parametrize("names", [["https://a"], ["a:443"], ["a/b"], [""], ["*.a"], ["a b"], [5]])
def test_an_invalid_host_is_a_configuration_error(names: Any) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="output_hosts has"):
        OutputHosts(names)


def test_only_the_untrusted_url_is_removed() -> None:
    """The rest is signed. Without its URL a completed job is not settled, so it is polled."""
    evil = dataclasses.replace(UPDATE, url="https://evil.example/a.jpg")
    assert OutputHosts().believed(evil) == dataclasses.replace(UPDATE, url=None)
    assert OutputHosts().believed(UPDATE) is UPDATE
    failed = Generation(id="a", status=JobStatus.FAILED)
    assert OutputHosts().believed(failed) is failed


@pytest.mark.parametrize(
    ("names", "base_url", "allowed", "rejected"),
    [
        (None, "https://api.doitong.com", "https://cdn.doitong.com/a", "http://127.0.0.1:1/a"),
        (None, "http://127.0.0.1:8000", "http://127.0.0.1:1/a", "http://cdn.doitong.com/a"),
        (["cdn.example"], "https://gateway.example", "https://cdn.example/a", "https://cdn.doitong.com/a"),
        (["cdn.example"], "http://[::1]:8000", "http://localhost:1/a", "https://cdn.doitong.com/a"),
    ],
)
def test_a_service_on_loopback_has_its_outputs_on_loopback(
    names: list[str] | None, base_url: str, allowed: str, rejected: str
) -> None:
    """Otherwise only the documented or configured hosts are trusted."""
    hosts = OutputHosts.of_service(names, base_url)
    assert hosts.allows(allowed)
    assert not hosts.allows(rejected)
