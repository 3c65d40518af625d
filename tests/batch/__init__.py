"""Tests of `doitong_async.batch`, one file per module."""
