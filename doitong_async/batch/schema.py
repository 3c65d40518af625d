"""Creates a ledger's file, and upgrades one from an older version of this library."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

APPLICATION: Final = 0x444F4954
"""Marks the file as ours, in SQLite's own field for that ("DOIT")."""
VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    idempotency_key TEXT,
    intended_at REAL,
    reserved REAL,
    job_id TEXT,
    accepted_at REAL,
    status TEXT,
    url TEXT,
    cost REAL,
    earlier_cost REAL NOT NULL,
    reason TEXT,
    file TEXT,
    length INTEGER,
    sha256 TEXT,
    ended_at REAL,
    body TEXT
);
CREATE INDEX unsettled ON items (state) WHERE state IN ('intent', 'submitted');
CREATE TABLE statuses (
    item INTEGER NOT NULL, attempt INTEGER NOT NULL, status TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE days (day INTEGER PRIMARY KEY, made INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# Of all attempts, failed ones too: the service may answer the next submit with the job of an earlier one.
_JOBS: Final = """
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, idempotency_key TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO jobs SELECT job_id, idempotency_key FROM items WHERE job_id IS NOT NULL;
"""


def make(path: Path) -> None:
    """Create an empty ledger."""
    # Created under another name first, so that a process that dies here leaves no half of a ledger.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            connection.executescript(f"BEGIN; {marks} {_SCHEMA} {_JOBS} COMMIT;")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Add what an older version of this library left out."""
    names = [name for _, name, *_ in connection.execute("PRAGMA table_info(items)")]
    if "body" not in names:
        connection.execute("ALTER TABLE items ADD COLUMN body TEXT")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
        connection.executescript(f"BEGIN; {_JOBS} COMMIT;")
