"""Tests of `doitong_async.limits`, one file a module."""
