"""Tests of `doitong_async.limits.redis`, one file a module."""
