"""Staying within the plan: its limits, its windows, and the one gate before every request."""
