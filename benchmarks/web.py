"""A web service whose requests wait for pictures, for `uvicorn benchmarks.web:app --workers 4`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from benchmarks.part import SETTINGS, client_of

doitong = client_of(**json.loads(os.environ[SETTINGS]))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Keep the client open as long as the worker runs."""
    async with doitong:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/doitong", doitong.webhooks.asgi_app())


@app.get("/worker")
async def worker() -> int:
    """Return which process answers."""
    return os.getpid()


@app.get("/picture")
async def picture(prompt: str) -> dict[str, object]:
    """Wait for a picture; return its job, and when the wait ended by the clock that all processes share."""
    result = await doitong.generate(prompt)
    return {"job": result.generation.id, "noticed": time.monotonic(), "worker": os.getpid()}
