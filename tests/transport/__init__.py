"""Tests of `doitong_async.transport`, one file a module."""
