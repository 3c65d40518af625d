"""Checks, before a credit is spent, which assumption about the service fails on this endpoint."""
