"""Batches: submit many requests, read as needed, and pay for each job once."""
