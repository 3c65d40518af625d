"""Webhooks: check the signature, read the body and pass the update on."""

from doitong_async.webhooks.signature import parse, sign, verify

__all__ = ["parse", "sign", "verify"]
