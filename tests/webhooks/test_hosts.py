"""Which URLs are believed when a webhook names them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from doitong_async import ConfigurationError, Generation, JobStatus
from doitong_async.webhooks.hosts import OutputHosts

THERE = "https://cdn.doitong.com/outputs/a.jpg"
NEWS = Generation(id="a", status=JobStatus.COMPLETED, url=THERE, credit_cost=20)


@pytest.mark.parametrize(
    "url",
    [THERE, "https://CDN.doitong.com/a", "https://cdn.doitong.com:443/a?b=c#d", "https://cdn.doitong.com"],
)
def test_the_documented_host_is_believed(url: str) -> None:
    """By https, in any case of letters, on any port."""
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
def test_nothing_else_is(url: str) -> None:
    """Nor what other readers of URLs might take for another host."""
    assert not OutputHosts().allows(url)


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("http://127.0.0.1:8000/outputs/a.jpg", True),
        ("https://localhost/a", True),
        ("http://[::1]:8000/a", True),
        (THERE, True),
        ("http://10.0.0.1/a", False),
        ("http://127.0.0.1@evil.example/a", False),
        ("file://localhost/a", False),
    ],
)
def test_loopback_is_for_a_service_on_loopback(url: str, is_allowed: bool) -> None:
    """Over plain http too, as an emulator has it, and only where it is asked for."""
    assert OutputHosts(loopback=True).allows(url) is is_allowed
    assert OutputHosts().allows(url) is (url == THERE)


def test_hosts_of_your_own() -> None:
    """They stand in place of the documented one; one name may come alone."""
    assert OutputHosts(["Media.example", "[2001:db8::1]"]).allows("https://media.example/a")
    assert OutputHosts(["[2001:db8::1]"]).allows("https://[2001:DB8::1]:8443/a")
    assert not OutputHosts(["media.example"]).allows(THERE)
    assert OutputHosts("media.example").allows("https://media.example/a")


@pytest.mark.parametrize("names", [["https://a"], ["a:443"], ["a/b"], [""], ["*.a"], ["a b"], [5]])
def test_what_is_no_host_is_told(names: Any) -> None:
    """By the name of the setting."""
    with pytest.raises(ConfigurationError, match="output_hosts has"):
        OutputHosts(names)


def test_only_the_url_is_not_believed() -> None:
    """The rest is signed; without its URL a completed job is not settled, and is looked at."""
    evil = dataclasses.replace(NEWS, url="https://evil.example/a.jpg")
    assert OutputHosts().believed(evil) == dataclasses.replace(NEWS, url=None)
    assert OutputHosts().believed(NEWS) is NEWS
    failed = Generation(id="a", status=JobStatus.FAILED)
    assert OutputHosts().believed(failed) is failed


@pytest.mark.parametrize(
    ("names", "base_url", "allowed", "refused"),
    [
        (None, "https://api.doitong.com", "https://cdn.doitong.com/a", "http://127.0.0.1:1/a"),
        (None, "http://127.0.0.1:8000", "http://127.0.0.1:1/a", "http://cdn.doitong.com/a"),
        (["cdn.example"], "https://gateway.example", "https://cdn.example/a", "https://cdn.doitong.com/a"),
        (["cdn.example"], "http://[::1]:8000", "http://localhost:1/a", "https://cdn.doitong.com/a"),
    ],
)
def test_a_service_on_this_machine_has_its_outputs_here(
    names: list[str] | None, base_url: str, allowed: str, refused: str
) -> None:
    """Else only the documented host is one, or those that were named."""
    hosts = OutputHosts.of_service(names, base_url)
    assert hosts.allows(allowed)
    assert not hosts.allows(refused)
