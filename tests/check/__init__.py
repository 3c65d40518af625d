"""Tests of the check, on both servers."""
