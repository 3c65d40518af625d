"""Output URLs are sent as issued, and every spelling of an address is recognised."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from doitong_async.errors import DownloadError
from doitong_async.urls import Places, address_of, is_here, is_loopback, joined, kind_of_host, split_http

ELSEWHERE = Places("api.doitong.com")
HERE = Places("127.0.0.1")


def sent(url: str, places: Places = ELSEWHERE) -> str:
    """Return the target in the request line."""
    return places.checked(url).raw_path_qs


@pytest.mark.parametrize(
    "target",
    [
        "/fox.jpg?Signature=ab%2Fcd~EF__&Expires=17&Key-Pair-Id=K",
        "/fox.jpg?X-Amz-Signature=0a&X-Amz-Credential=A%2f20260101%2fus&x=%7E%7e",
        "/a%20b/%61/./c/../d//e.jpg?q=a+b&c=%2B&empty=&flag",
        "/a|b{c}\"d'<e>^`f\\g[h]@:;,=$!*()?[x]=|y|&q=?/",
        "/%E2%9C%93/%zz/%",
        "/",
        "/?a=/../b",
    ],
)
def test_a_url_is_fetched_as_issued(target: str) -> None:
    """Byte for byte, since a signature covers one spelling."""
    assert sent(f"https://cdn.example{target}") == target
    assert sent(f"https://cdn.example:8443{target}#part") == target


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        ("/a b?c d", "/a%20b?c%20d"),
        ("/狐?é=%C3%A9", "/%E7%8B%90?%C3%A9=%C3%A9"),
        ("/a\tb\r\nHost: evil", "/a%09b%0D%0AHost:%20evil"),
        ("/\x7f\x00", "/%7F%00"),
        ("/\udcff", "/%FF"),
    ],
)
def test_only_characters_that_cannot_be_sent_are_escaped(target: str, wire: str) -> None:
    """No line can be broken, and the bytes of a header stay unchanged."""
    assert sent(f"https://cdn.example{target}") == wire


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/b?s=%2F~", "https://cdn.example/b?s=%2F~"),
        ("c.jpg?s=%2f", "https://cdn.example/x/c.jpg?s=%2f"),
        ("//other.example/%7E", "https://other.example/%7E"),
        ("https://other.example/a/../b?", "https://other.example/a/../b?"),
        ("?s=1", "https://cdn.example/x/y?s=1"),
        ("http://[::1/", "http://[::1/"),
        ("//[::1/x", "//[::1/x"),
    ],
)
def test_a_redirect_is_followed_as_issued(location: str, leads_to: str) -> None:
    """A signature covers its escapes, too; a location that is no URL fails later."""
    assert joined(URL("https://cdn.example/x/y?old=1", encoded=True), location) == leads_to


@pytest.mark.parametrize(
    "url",
    [
        *("https://a..b/x.jpg", "https://.a/x", "https:///x", "https://", "https:a", "/x.jpg", "x", ""),
        *("http://[::1/", "https://[::1]x/", "https://[not]/", "https://[fe80::1%25eth0]/", "//a/b"),
        *("https://a:99999/", "https://a:0/", "https://a:-1/", "https://a:x/", "https://a:1:2/"),
        *("https://user@a/", "https://user:pw@a/", "https://a\\@evil/", "https://a\\.evil/", "https://a b/"),
        *(
            "file:///etc/passwd",
            "ftp://a/b",
            "javascript:alert(1)",
            "data:,x",
            "https://a%2eb/",
            "https://a\tb/",
        ),
        *(
            f"https://{'a' * 64}.example/",
            f"https://{'a.' * 150}example/",
            "https://\ud800/",
            "https://a/\ud800",
        ),
        *("https://xn--\u0660.example/", "https://a\u3002\u3002b/"),
    ],
)
def test_an_invalid_url_is_a_download_error(url: str) -> None:
    """Nothing else is raised, whatever the redirecting host writes."""
    with pytest.raises(DownloadError, match="no address to fetch") as caught:
        ELSEWHERE.checked(url)
    assert caught.value.is_remote


def test_a_job_without_a_url_is_an_error() -> None:
    """It is completed, but nobody knows where its output is."""
    with pytest.raises(DownloadError, match="gave no URL") as caught:
        ELSEWHERE.checked(None)
    assert caught.value.is_remote


@pytest.mark.parametrize(("port", "is_one"), [("1", True), ("65535", True), ("65536", False), ("0", False)])
def test_a_port_is_a_number_of_sixteen_bits(port: str, is_one: bool) -> None:
    """And not zero, where nothing can listen."""
    if is_one:
        assert ELSEWHERE.checked(f"https://a:{port}/").port == int(port)
        return
    with pytest.raises(DownloadError, match="no address to fetch"):
        ELSEWHERE.checked(f"https://a:{port}/")


def test_a_host_name_has_a_maximum_length() -> None:
    """253 characters, and the dot of the root."""
    longest = f"{'a' * 63}." * 3 + "b" * 61
    assert ELSEWHERE.checked(f"https://{longest}./").raw_host == f"{longest}."
    with pytest.raises(DownloadError, match="no address to fetch"):
        ELSEWHERE.checked(f"https://{longest}b./")


def test_a_host_is_converted_to_ascii() -> None:
    """So the client connects to the very name it checked."""
    assert ELSEWHERE.checked("https://BÜCHER.example./x").raw_host == "xn--bcher-kva.example."
    assert ELSEWHERE.checked("https://CDN_1.Example/x").raw_host == "cdn_1.example"
    assert ELSEWHERE.checked("https://[2001:DB8:0::1]:8443/x").raw_host == "2001:db8::1"


LOOPBACK = [
    *(
        "127.0.0.1",
        "127.255.0.9",
        "127.1",
        "127.16777215",
        "127.0.65535",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.1",
    ),
    *("0177.0.0.1", "0x7F.0.0.0x1", "127.0.0.1.", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost", "a.localhost"),
    *("LOCALHOST", "１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "[::ffff:0:127.0.0.1]"),
]
OTHERS = {
    "link-local": ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[::ffff:169.254.169.254]"],
    "private": [
        *("10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "0300.0250.1.1", "100.64.0.1"),
        *("100.127.255.255", "198.18.0.1", "192.0.0.8", "[fc00::1]", "[fd12:3456::1]", "[fec0::1]"),
        *("[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::1]", "[2002:a00:1::1]"),
    ],
    "unspecified": ["0.0.0.0", "0", "0x0", "0.1.2.3", "[::]", "[::ffff:0.0.0.0]", "[::2]"],
    "multicast": ["224.0.0.1", "239.255.255.255", "[ff02::1]"],
    "reserved": ["240.0.0.1", "0377.0.0.1", "255.255.255.255", "4294967295"],
}
PUBLIC = [
    *(
        "93.184.216.34",
        "1.1.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "11.0.0.1",
        "cdn.doitong.com",
        "localhost.example",
    ),
    *("[2606:4700::1111]", "[::ffff:1.1.1.1]", "[64:ff9b::101:101]", "127.0.0.1.example", "notlocalhost"),
    *("256.0.0.1", "1.2.3.4.5", "08.1.1.1", "4294967296", "deadbeef"),
    # Not 127.0.0.1: a part too many, an underscore, a part that is too large for its position.
    *("127.0.0.1.0", "1_27.0.0.1", "127.16777216", "127.0.65536", "127.0.0.256"),
]
KINDS = [("loopback", host) for host in LOOPBACK]
KINDS += [(kind, host) for kind, hosts in OTHERS.items() for host in hosts]


@pytest.mark.parametrize(("kind", "host"), KINDS)
def test_an_address_is_recognised_in_every_spelling(kind: str, host: str) -> None:
    """Decimal, octal, hexadecimal, shortened, inside IPv6, in other scripts."""
    wire = Places(host.strip("[]"), is_http_allowed=True).checked(f"https://{host}/x")
    assert kind_of_host(wire.raw_host or "") == kind


@pytest.mark.parametrize("host", PUBLIC)
def test_all_others_are_public(host: str) -> None:
    """A name counts as public until it is resolved; then its addresses are checked."""
    assert kind_of_host(host.strip("[]")) is None


@pytest.mark.parametrize(
    ("url", "places", "is_fetched"),
    [
        ("https://cdn.example/x", ELSEWHERE, True),
        ("http://cdn.example/x", ELSEWHERE, False),
        ("http://api.doitong.com/x", ELSEWHERE, False),
        ("http://127.0.0.1:8000/x", HERE, True),
        ("http://10.0.0.1/x", HERE, False),
        ("http://api.internal:9000/x", Places("api.internal", is_http_allowed=True), True),
        ("http://other.internal/x", Places("api.internal", is_http_allowed=True), False),
        ("http://cdn.named/x", Places("api.internal", frozenset({"cdn.named"}), is_http_allowed=True), False),
    ],
)
def test_plain_http_is_for_this_machine_and_the_apis_own_host(
    url: str, places: Places, is_fetched: bool
) -> None:
    """The latter only if the user allows it, since anyone on the way could change the bytes."""
    if is_fetched:
        assert places.checked(url).scheme == "http" or "https" in url
        return
    with pytest.raises(DownloadError, match="not https") as caught:
        places.checked(url)
    assert caught.value.is_remote


@pytest.mark.parametrize(
    ("url", "is_usable"),
    [
        *(("https://a.example", True), ("http://a:1/x?y", True), ("HTTPS://A", True)),
        *(("ftp://a", False), ("https://", False), ("https:///x", False), ("a.example", False), ("", False)),
        *(
            ("https://a:0", False),
            ("https://a:65536", False),
            ("https://a:x", False),
            ("https://[::1", False),
        ),
    ],
)
def test_a_service_url_has_a_valid_host_and_port(url: str, is_usable: bool) -> None:
    """Other texts have no parts, and nothing is raised."""
    assert (split_http(url) is not None) is is_usable


@pytest.mark.parametrize(
    ("host", "is_this_machine"),
    [
        *(("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("::1", True)),
        *(("10.0.0.1", False), ("a.example", False), ("", False)),
    ],
)
def test_this_machine_is_recognised_by_its_host(host: str, is_this_machine: bool) -> None:
    """There plain http is safe; an invalid URL is not here."""
    assert is_loopback(host) is is_this_machine
    assert is_here(f"http://[{host}]:1/" if ":" in host else f"http://{host}:1/") is is_this_machine
    assert is_loopback(None) is is_here(host) is False


def test_a_client_trusts_the_api_host_and_the_named_hosts() -> None:
    """In any spelling; the documented host does not count as named."""
    places = Places.of_service(
        "https://API.example:8443/v2", ["[::1]", "CDN.example"], allow_insecure_http=False
    )
    assert all(map(places.is_trusted, ("api.example", "::1", "cdn.example")))
    assert not places.is_trusted("cdn.doitong.com")
    assert Places.of_service("https://BÜCHER.example", None, allow_insecure_http=False).is_trusted(
        "xn--bcher-kva.example"
    )
    assert not Places.of_service("https://a.example", None, allow_insecure_http=True).is_trusted("127.0.0.1")
    assert Places.of_service("http://127.0.0.1:1", "b.example", allow_insecure_http=False).is_trusted(
        "b.example"
    )


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="htps:/[]@.0127xaf%\\?# \n\t\ud800é狐", max_size=40))
def test_any_url_is_sent_or_rejected(text: str) -> None:
    """A sent URL never breaks the line and never contains a user."""
    for url in (text, f"https://{text}", f"https://a/{text}"):
        try:
            wire = ELSEWHERE.checked(joined(URL("https://a/b"), url))
        except DownloadError:
            continue
        assert wire.raw_path_qs.isascii()
        assert " " not in wire.raw_path_qs
        assert wire.raw_path_qs.isprintable()
        assert wire.user is None


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_old_spellings_of_an_address_are_equal(number: int) -> None:
    """As the system's `inet_aton` reads them."""
    spellings = {str(number), hex(number), f"0{number:o}", f"{number >> 24}.{number & 0xFFFFFF}"}
    assert {str(address_of(each)) for each in spellings} == {
        socket.inet_ntoa(socket.inet_aton(each)) for each in spellings
    }
