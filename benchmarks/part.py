"""One process of several on one API key: `python -m benchmarks.part ARGUMENTS`; it reports on stdout.

It opens a client, says so, waits for a line on stdin, makes its pictures and reports each. With a ledger the
pictures are a batch, which a successor resumes; without one they are as many calls at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

from doitong_async import AsyncDoitong, Plan

SETTINGS: Final = "BENCHMARK_CLIENT"
"""The environment variable with the arguments of the client of `benchmarks.web`, as JSON."""


def client_of(
    *, url: str, key: str, plan: list[Any], coordinator: str | None, **arguments: Any
) -> AsyncDoitong:
    """Return a client on that service, with a coordinator if there is one."""
    if coordinator is not None:
        arguments["coordinator"] = coordinator
    return AsyncDoitong(api_key=key, base_url=url, plan=Plan(*plan), **arguments)


def main() -> None:
    """Be that process."""
    asyncio.run(_work(**json.loads(sys.argv[1])))


async def _work(*, name: str, items: int, ledger: str | None, **client: Any) -> None:
    async with client_of(**client) as doitong:
        _say("open")
        await asyncio.to_thread(sys.stdin.readline)
        _say("called")
        prompts = [
            {"prompt": f"a lighthouse of {name}, painting {n}", "key": f"{name}-{n}"} for n in range(items)
        ]
        if ledger is None:
            await asyncio.gather(*(_call(doitong, each["prompt"], each["key"]) for each in prompts))
            return
        async with doitong.batch(prompts, ledger=ledger) as batch:
            async for item in batch:
                if item.result is None:
                    raise RuntimeError(f"{item.key} is {item.outcome}") from item.error
                _say("done", key=item.key, job=item.result.generation.id)


async def _call(doitong: AsyncDoitong, prompt: str, key: str) -> None:
    result = await doitong.generate(prompt)
    _say("done", key=key, job=result.generation.id)


def _say(what: str, **more: str) -> None:
    """Print what happened and when, by the clock that all processes share."""
    sys.stdout.write(json.dumps({"what": what, "at": time.monotonic(), **more}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
