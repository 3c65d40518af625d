"""Webhooks: the signature, what may be believed, the receiver and its faces, the door."""
