"""The tests mirror the package; `python -m tests` checks everything."""
