"""Tokens: one line of text that resumes a job in another process, `doitong.job(token)`."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from doitong_async.errors import BadRequestError

_MARK: Final = "dtj1."
_LATEST: Final = 10**11
"""Epoch seconds; no plausible clock shows more."""
_ANY_MARK: Final = re.compile(r"dtj(\d+)\.(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JobRef:
    """What is known of a job without asking: never a key, a prompt or a URL.

    `accepted_at` is the epoch second of the submit's answer, or None for a bare id.
    """

    id: str
    type: str | None = None
    provider: str | None = None
    accepted_at: int | None = None


def write_token(ref: JobRef) -> str:
    """Return the token: printable, URL-safe, without secrets."""
    fields = {"id": ref.id, "type": ref.type, "provider": ref.provider, "at": ref.accepted_at}
    known = {name: value for name, value in fields.items() if value is not None}
    packed = json.dumps(known, separators=(",", ":")).encode()
    return _MARK + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def read_ref(id_or_token: str) -> JobRef:
    """Return what a token, or a bare id, says about the job.

    Raises:
        BadRequestError: if it is neither.
    """
    if not isinstance(id_or_token, str) or not id_or_token.strip() or not id_or_token.isprintable():
        raise BadRequestError(f"{id_or_token!r} is no job id and no token; expected job.id or job.token.")
    text = id_or_token.strip()
    match = _ANY_MARK.fullmatch(text)
    if match is None:
        return JobRef(text)
    if match[1] != "1":
        raise BadRequestError(f"The token is of version {match[1]}, this library reads version 1; update it.")
    try:
        raw = base64.b64decode(match[2] + "=" * (-len(match[2]) % 4), altchars=b"-_", validate=True)
        fields = json.loads(raw)
        return _ref_of(fields)
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadRequestError("The token is damaged; give job.token whole, or the bare job.id.") from None


def _ref_of(fields: dict[str, object]) -> JobRef:
    job_id, kind, provider, at = fields["id"], fields.get("type"), fields.get("provider"), fields.get("at")
    if not isinstance(job_id, str) or not job_id:
        raise ValueError("no id")
    return JobRef(
        job_id,
        kind if isinstance(kind, str) else None,
        provider if isinstance(provider, str) else None,
        at if type(at) is int and 0 <= at < _LATEST else None,
    )
