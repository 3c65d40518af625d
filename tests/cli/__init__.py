"""Tests of `doitong_async.cli`: what its users type, read and meet."""
