"""Verify and read webhooks: HMAC-SHA-256 over the raw bytes, then the same snapshot as from a poll.

The header and the body are documented (reference, "Webhooks"). What the signature covers is not: the raw body
under the webhook secret is an assumption.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from doitong_async.errors import ConfigurationError, WebhookPayloadError, WebhookSignatureError
from doitong_async.secret import SecretBytes, hidden
from doitong_async.transport.wire import EXCERPT, read_generation, read_json
from doitong_async.types import Generation

Secrets: TypeAlias = str | bytes | Sequence[str | bytes]
"""One webhook secret, or several during a rotation: a signature under any of them is valid."""

SIGNATURE_HEADER: Final = "X-Doitong-Signature"

# Hex digits of either case are the same number; nothing else may vary, not even surrounding white space.
_FORM: Final = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)

_NO_SECRET: Final = (
    "webhook_secret is no secret: expected a text or bytes that are not blank, or a sequence of such."
)


def verify(body: bytes, header: str | None, secrets: Secrets) -> None:
    """Return if the header signs exactly these bytes under one of the secrets.

    The header must be `sha256=` and 64 hex digits, with nothing around them. The digits may be of either
    case, which is not documented and reveals nothing. The check tries all secrets, whichever matches, and
    compares in constant time.

    Args:
        body: the raw bytes of the request, not yet parsed.
        header: the one `X-Doitong-Signature` of the request, or None if there was none or several.
        secrets: the webhook secret, or several during a rotation.

    Raises:
        WebhookSignatureError: if it does not; neither message nor traceback shows the expected signature.
        ConfigurationError: if there is no secret, or an empty one.
    """
    secrets = hidden(secrets)
    if not isinstance(body, bytes | bytearray):
        raise TypeError(f"body is a {type(body).__name__}; expected the raw bytes, not yet decoded or parsed")
    if not _is_signed(body, header, checked_secrets(secrets)):
        raise WebhookSignatureError(
            "The webhook is not signed: expected one X-Doitong-Signature header with sha256= and the 64 hex "
            "digits of the HMAC-SHA-256 of the raw body under the webhook secret."
        )


def sign(body: bytes, secret: str | bytes) -> str:
    """Return the header that signs these bytes, for tests of code that accepts webhooks.

    Raises:
        ConfigurationError: if the secret is empty.
    """
    secret = hidden(secret)
    (key,) = checked_secrets([secret])
    return f"sha256={hmac.digest(key, body, 'sha256').hex()}"


def parse(body: bytes) -> Generation:
    """Return the snapshot in a webhook (reference, "Webhooks"), read like an answer of the API.

    `service` there is `provider` here, and what a webhook leaves out, such as the cost, is None. Any string
    is a status. Without a status the URL decides, as in an answer: completed with a URL, processing without.

    Raises:
        WebhookPayloadError: if it is not an object with an id; the message shows names, never values.
    """
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise WebhookPayloadError(f"The webhook is no JSON object; length in bytes: {len(body):,}.")
    update = read_generation(fields)
    if update is None:
        names = ascii(", ".join(fields))[1:-1][:EXCERPT] or "none"
        raise WebhookPayloadError(f"The webhook has no id that can be read; its fields: {names}.")
    return update


def checked_secrets(secrets: Secrets) -> tuple[SecretBytes, ...]:
    """Return the secrets as signing keys; a string stands for its UTF-8 bytes.

    Raises:
        ConfigurationError: if there is none, or one of them is empty; the message shows no part of one.
    """
    secrets = hidden(secrets)
    keys = _keys(secrets)
    if not keys:
        raise ConfigurationError(_NO_SECRET)
    return keys


def _keys(secrets: object) -> tuple[SecretBytes, ...]:
    """Return the secrets as bytes, or nothing at all if one of them is invalid."""
    secrets = hidden(secrets)
    several = [secrets] if isinstance(secrets, str | bytes) else secrets
    if not isinstance(several, Sequence):
        return ()
    keys = [_as_key(secret) for secret in several]
    return tuple(keys) if all(keys) else ()


def _is_signed(body: bytes, header: str | None, keys: Sequence[bytes]) -> bool:
    match = _FORM.fullmatch(header) if isinstance(header, str) else None
    if match is None:
        return False
    given = bytes.fromhex(match[1])
    is_signed = False
    for key in keys:
        # No early exit: the duration must not reveal which of the secrets matched.
        is_signed |= hmac.compare_digest(hmac.digest(key, body, "sha256"), given)
    return is_signed


def _as_key(secret: object) -> SecretBytes:
    """Return the bytes of a secret; empty for a blank string or another type."""
    if isinstance(secret, str):
        try:
            # Bytes of the environment that are not UTF-8 arrive as lone surrogates.
            return SecretBytes(secret.encode("utf-8", "surrogateescape") if secret.strip() else b"")
        except UnicodeEncodeError:
            return SecretBytes()
    return SecretBytes(secret) if isinstance(secret, bytes) else SecretBytes()
