"""A result in the hands of a program: in pieces, copied, pickled, in a data frame, in a notebook."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from contextlib import aclosing

import pytest

from doitong_async import DownloadError, Item, Outcome, Result
from tests.virtual import virtual, with_emulator


@virtual
async def test_an_output_comes_in_pieces() -> None:
    """The same bytes as at once, and by then the client knows what they are."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox")
        assert (result.suffix, result.content_type) == (None, None)
        chunks = [chunk async for chunk in result.chunks()]
        assert b"".join(chunks) == await result.read()
        assert (result.suffix, result.content_type) == (".jpg", "image/jpeg")


@virtual
async def test_a_loop_over_pieces_may_be_left() -> None:
    """The connection is free again, and the next download is whole."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox")
        async with aclosing(result.chunks()) as chunks:
            async for _ in chunks:
                break
        assert await result.read()


@virtual
async def test_pieces_go_on_where_the_download_broke() -> None:
    """The host resumes it, so nothing is yielded twice."""
    async with with_emulator(emulator={"durations": 0.0, "faults": ["output 1: truncated"]}) as (doitong, _):
        result = await doitong.generate("a fox")
        assert b"".join([chunk async for chunk in result.chunks()]) == await result.read()


async def live_result() -> tuple[Result, bytes]:
    """Return a result whose client is closed, and its output."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox")
        return result, await result.read()


@virtual
async def test_a_copy_is_of_the_same_client() -> None:
    """So that `asdict`, and with it a data frame, takes items of a batch."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox")
        item = Item(number=1, key="a", request=None, outcome=Outcome.DONE, result=result)
        twins = [copy.copy(result), copy.deepcopy(result), dataclasses.asdict(item)["result"]]
        for twin in twins:
            assert isinstance(twin, Result)
            assert twin is not result
            assert (twin.id, twin.url) == (result.id, result.url)
            assert await twin.read() == await result.read()


@virtual
async def test_a_pickled_result_keeps_what_is_known_and_its_token() -> None:
    """No socket travels: whoever wants the output takes up the job."""
    result, _ = await live_result()
    twin = pickle.loads(pickle.dumps(result))
    assert (twin.generation, twin.suffix, twin.prompt) == (result.generation, ".jpg", "a fox")
    with pytest.raises(DownloadError, match="no client belongs to it that") as caught:
        await twin.read()
    assert caught.value.token is not None


@virtual
async def test_a_notebook_shows_the_picture_and_its_cost() -> None:
    """By its URL alone, whatever stands in it."""
    result, _ = await live_result()
    page = result._repr_html_()
    assert f'<img src="{result.url}"' in page
    assert "a fox, 20 credits" in page
    odd = copy.copy(result)
    odd.prompt = "<script>alert(1)</script>"
    odd.generation = dataclasses.replace(result.generation, url='https://x.example/"><script>', type="VIDEO")
    assert "<script>" not in odd._repr_html_()
    assert "<img" not in odd._repr_html_()


@virtual
async def test_a_client_is_opened_without_a_block() -> None:
    """As in a notebook, where a block ends with its cell."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        await doitong.aclose()
        assert await doitong.open() is doitong
        assert (await doitong.generate("a fox")).url
