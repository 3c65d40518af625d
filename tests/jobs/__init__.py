"""Tests of `doitong_async.jobs`, one file a module."""
