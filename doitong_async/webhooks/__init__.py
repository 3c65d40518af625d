"""Webhooks: what is signed, what it says, and the door through which it comes in."""

from doitong_async.webhooks.signature import parse, sign, verify

__all__ = ["parse", "sign", "verify"]
