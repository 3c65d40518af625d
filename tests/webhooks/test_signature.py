"""Whose webhooks are trusted, by known vectors and openssl, and what a webhook says."""

from __future__ import annotations

import hmac
import json
import shutil
import subprocess
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import (
    ConfigurationError,
    Generation,
    JobStatus,
    WebhookPayloadError,
    WebhookSignatureError,
    webhooks,
)
from doitong_async.transport.wire import Answer, read_json, read_poll
from doitong_async.webhooks.signature import checked_secrets
from tests.webhooks.bodies import DOCUMENTED, SECRET, signed, webhook_body

LONG = (
    b"This is a test using a larger than block-size key and a larger than block-size data. "
    b"The key needs to be hashed before being used by the HMAC algorithm."
)
RFC_4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        bytes(range(1, 26)),
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (b"\xaa" * 131, LONG, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]
BODY = webhook_body()
RIGHT = signed(BODY)
ODD_JSON = [
    b'"metadata": "\\ud83d"',
    b'"metadata": {"\\udc00": ["\\ud83d"]}',
    b'"\\ud83d": 1',
    b'"createdAt": "\\ud83d"',
    b'"metadata": "\xff\xfe"',
    b'"\xf0\x28": 1',
    b'"metadata": {"x": NaN, "y": [-Infinity]}',
    b'"creditCost": NaN',
    b'"creditCost": ' + b"9" * 5000,
    b'"metadata": -' + b"9" * 5000,
    b'"createdAt": 1e999',
    b'"metadata": ' + b"[" * 500 + b"]" * 500,
    b'"more": ' + b'{"a":' * 500 + b"1" + b"}" * 500,
    b'"id": "a", "metadata": {"a": 1, "a": 2}',
]
KEYS = st.text(min_size=1).filter(lambda text: text.strip()) | st.binary(min_size=1)


def is_signed(body: bytes, header: str | None, secrets: Any) -> bool:
    """Return whether `verify` accepts the header."""
    try:
        webhooks.verify(body, header, secrets)
    except WebhookSignatureError:
        return False
    return True


class TestVerify:
    @pytest.mark.parametrize(("key", "body", "digits"), RFC_4231)
    def test_known_vectors(self, key: bytes, body: bytes, digits: str) -> None:
        """The vectors of RFC 4231, signed and verified."""
        assert webhooks.sign(body, key) == f"sha256={digits}"
        assert is_signed(body, f"sha256={digits}", key)

    @pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
    @pytest.mark.parametrize("body", [BODY, b"", b"\x00\xff\r\n" * 999])
    def test_openssl_signs_the_same(self, body: bytes) -> None:
        """`openssl dgst -sha256 -hmac` gives the signature that `verify` accepts."""
        command = ["openssl", "dgst", "-sha256", "-hmac", SECRET]
        out = subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode()
        assert is_signed(body, f"sha256={out.split()[-1]}", SECRET)

    @given(st.binary(), KEYS)
    def test_a_signed_body_is_verified(self, body: bytes, secret: str | bytes) -> None:
        """Whatever the bytes and the secret; other bytes are not."""
        header = webhooks.sign(body, secret)
        assert is_signed(body, header, secret)
        assert not is_signed(body + b" ", header, secret)

    @given(st.binary(), st.none() | st.text() | st.from_regex(r"\Asha256=[0-9a-f]{64}\Z"))
    def test_any_other_header_is_rejected(self, body: bytes, header: str | None) -> None:
        """Only the right header is valid, and no header causes another error."""
        with pytest.raises(WebhookSignatureError):
            webhooks.verify(body, header, SECRET)

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            RIGHT.removeprefix("sha256="),
            RIGHT.replace("sha256", "SHA256"),
            RIGHT.replace("sha256", "sha1"),
            f" {RIGHT}",
            f"{RIGHT}\n",
            f"{RIGHT}, {RIGHT}",
            f"{RIGHT},{RIGHT}",
            RIGHT[:-1],
            f"{RIGHT}0",
            RIGHT[:-2] + " " + RIGHT[-1],
            RIGHT[:-1] + "\N{FULLWIDTH DIGIT ONE}",
            RIGHT[:-1] + ("0" if RIGHT[-1] != "0" else "1"),
            signed(BODY + b" "),
            signed(BODY, "another"),
        ],
    )
    def test_the_header_format_is_strict(self, header: str | None) -> None:
        """One header, one scheme, 64 digits, nothing around them, and for exactly this body."""
        with pytest.raises(WebhookSignatureError):
            webhooks.verify(BODY, header, SECRET)

    def test_hex_digits_may_be_of_either_case(self) -> None:
        """Which of them the service writes is not documented."""
        assert is_signed(BODY, "sha256=" + RIGHT.removeprefix("sha256=").upper(), SECRET)

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_several_secrets_are_valid_at_once(self, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Text and bytes alike; all are compared wherever the right one stands."""
        secrets: list[str | bytes] = ["old", b"older", "oldest"]
        secrets[position] = SECRET
        compared = []
        compare = hmac.compare_digest

        def count(one: bytes, other: bytes) -> bool:
            compared.append(one)
            return compare(one, other)

        monkeypatch.setattr(hmac, "compare_digest", count)
        webhooks.verify(BODY, RIGHT, secrets)
        assert len(compared) == 3

    @pytest.mark.parametrize(
        "secrets", [None, "", b"", "  ", [], (), ["a", ""], [b"a", b""], 5, [None], "\ud800"]
    )
    def test_an_empty_secret_is_a_configuration_error(self, secrets: Any) -> None:
        """Everybody knows the empty secret, so it verifies nothing; the error shows none."""
        for call in (lambda: webhooks.verify(BODY, RIGHT, secrets), lambda: checked_secrets(secrets)):
            with pytest.raises(ConfigurationError, match="webhook_secret is no secret") as caught:
                call()
            assert caught.value.__context__ is None

    def test_a_secret_from_the_environment_may_be_any_bytes(self) -> None:
        """Bytes that are not UTF-8 arrive as lone surrogates, and are turned back."""
        assert checked_secrets(b"key-\xff".decode("utf-8", "surrogateescape")) == (b"key-\xff",)

    def test_a_decoded_body_is_a_type_error(self) -> None:
        """A text could come from different bytes."""
        body: Any = BODY.decode()
        with pytest.raises(TypeError, match="body is a str; expected the raw bytes"):
            webhooks.verify(body, RIGHT, SECRET)

    @pytest.mark.parametrize("secrets", [SECRET, [SECRET], [SECRET, ""]])
    def test_errors_reveal_nothing(self, secrets: Any) -> None:
        """Neither the secret nor the expected signature, not even in the locals of a traceback."""

        with pytest.raises((WebhookSignatureError, ConfigurationError)) as caught:
            webhooks.verify(BODY, signed(BODY, "another"), secrets)
        error = caught.value
        assert error.__context__ is error.__cause__ is None
        whole = traceback.TracebackException.from_exception(error, capture_locals=True)
        # The frame of this test knows the secret, of course.
        ours = [frame.locals for frame in whole.stack if frame.filename != __file__]
        assert ours
        shown = f"{error!r} {error} {vars(error)!r} {ours!r}"
        for hidden in (SECRET, repr(SECRET.encode()), RIGHT.removeprefix("sha256=")):
            assert hidden not in shown


class TestParse:
    def test_the_documented_body(self) -> None:
        """`service` is the provider; the cost comes from elsewhere."""
        assert webhooks.parse(BODY) == Generation(
            id="abc123xyz",
            status=JobStatus.COMPLETED,
            url="https://cdn.doitong.com/outputs/abc123xyz.jpg",
            provider="flux-kontext",
            metadata={"duration": None, "width": 1920, "height": 1080},
            created_at=datetime(2024, 1, 1, tzinfo=UTC),
            extra={"completedAt": "2024-01-01T00:01:00Z"},
        )

    def test_a_poll_brings_the_same_snapshot(self) -> None:
        """The same fields under a GraphQL alias read the same."""
        answer = Answer(200, {}, {"data": {"j0": DOCUMENTED}}, "")
        polled: Any = read_poll(answer, ["abc123xyz"])
        assert polled.found == [webhooks.parse(BODY)]

    @pytest.mark.parametrize("odd", ODD_JSON)
    def test_odd_json_is_read_as_in_an_answer(self, odd: bytes) -> None:
        """However odd a value is, it must not lose the job that the webhook names."""
        body = b'{"id": "a", "status": "completed", %s}' % odd
        answer = Answer(200, {}, read_json(b'{"data": {"j0": %s}}' % body), "")
        polled: Any = read_poll(answer, ["a"])
        update = webhooks.parse(body)
        assert (update.id, update.status) == ("a", "completed")
        # As text: NaN is not equal to itself.
        assert repr([update]) == repr(polled.found)

    def test_a_byte_order_mark_is_ignored(self) -> None:
        """It precedes the body and belongs to no field."""
        assert webhooks.parse(b"\xef\xbb\xbf" + BODY) == webhooks.parse(BODY)

    @pytest.mark.parametrize("text", ["processing", "failed", "FAILED", "cancelled", "dreaming"])
    def test_any_text_is_a_status(self, text: str) -> None:
        """Known or not."""
        assert webhooks.parse(webhook_body(status=text)).status == JobStatus(text)

    @pytest.mark.parametrize("status", ['" "', "null", "5", "NaN", "{}", '"\\ud83d"'])
    def test_without_a_valid_status_the_url_decides(self, status: str) -> None:
        """As in an answer."""
        url = '"url": "https://cdn.doitong.com/outputs/a.jpg"'
        assert webhooks.parse(f'{{"id": "a", "status": {status}, {url}}}'.encode()).status == "completed"
        assert webhooks.parse(f'{{"id": "a", "status": {status}}}'.encode()).status == "processing"
        assert webhooks.parse(b'{"id": "a"}').status == "processing"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b'"completed"',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"status": "completed"}',
            b'{"id": "", "status": "completed"}',
            b'{"id": null, "status": "completed"}',
            b'{"id": {}, "status": "completed"}',
            b'{"id": true, "status": "completed"}',
            b'{"id": "\\ud83d", "status": "completed"}',
            b'{"id": ' + b"9" * 5000 + b', "status": "completed"}',
        ],
    )
    def test_a_body_without_a_readable_id_is_rejected(self, body: bytes) -> None:
        """The error says what is missing."""
        with pytest.raises(WebhookPayloadError, match=r"no JSON object|no id that can be read"):
            webhooks.parse(body)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"job": 1, "\xc3\xa9": 2}', "The webhook has no id that can be read; its fields: job, \\xe9."),
            (b"{}", "The webhook has no id that can be read; its fields: none."),
            (b"[" + b" " * 1_234 + b"]", "The webhook is no JSON object; length in bytes: 1,236."),
        ],
    )
    def test_the_error_says_what_arrived_instead(self, body: bytes, message: str) -> None:
        """In ASCII, since it ends up in a log."""
        with pytest.raises(WebhookPayloadError) as caught:
            webhooks.parse(body)
        assert caught.value.message == message

    def test_the_error_shows_field_names_but_no_values(self) -> None:
        """A value may hold a key or a prompt; names are truncated and kept on one line."""
        body = json.dumps({**DOCUMENTED, "id": "", "prompt": "my fox", "odd\nname": 1, "x" * 999: 2}).encode()
        with pytest.raises(WebhookPayloadError) as caught:
            webhooks.parse(body)
        shown = str(caught.value)
        assert "id, status, url" in shown
        assert "fox" not in shown
        assert "\n" not in shown
        assert len(shown) < 500
        assert caught.value.__context__ is None

    @given(
        st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: repr(value).encode())
    )
    def test_no_bytes_break_the_parser(self, body: bytes) -> None:
        """Garbage raises nothing but the parser's own error."""
        with pytest.raises(WebhookPayloadError):
            webhooks.parse(body)
