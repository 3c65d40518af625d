"""Webhooks: the signature, the output hosts, the handler and its adapters, the endpoint."""
