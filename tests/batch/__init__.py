"""Tests of `doitong_async.batch`, one file a module."""
