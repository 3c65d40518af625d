"""The spans of jobs: whose children they are, what they are linked to, and that each one ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from doitong_async import AsyncDoitong, DownloadError, JobFailedError, Plan, RateLimitError
from doitong_async.otel import Tracing
from doitong_async.testing import EmulatedDoitong, emulated
from tests.virtual import virtual

ONE = Plan.enterprise(requests_per_minute=600, concurrent_jobs=1)
PROMPT = "a fox nobody else may read of"
KEY = "sk-live-7QxVn4rT9b"


class Traced:
    """A tracer of the tested program, and every span that has ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tested program")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every span that has ended."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of one name, by their end."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span


@asynccontextmanager
async def traced(**arguments: Any) -> AsyncIterator[tuple[EmulatedDoitong, Traced]]:
    """Yield a client that is traced, opened under a span of the program's start."""
    spans = Traced()
    with spans.tracer.start_as_current_span("start"):
        opening = emulated(on_event=Tracing(spans.provider), api_key=KEY, **arguments)
        doitong = await opening.__aenter__()
    try:
        yield doitong, spans
    finally:
        await opening.__aexit__(None, None, None)


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of the span that a span is under."""
    return span.parent and span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """Return the id of a span."""
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


def lasted(span: ReadableSpan) -> float:
    """Return the seconds of a span."""
    assert span.end_time is not None
    assert span.start_time is not None
    return round((span.end_time - span.start_time) / 1e9, 3)


@virtual
async def test_the_spans_of_a_job_are_under_the_callers() -> None:
    """The submit, the job itself and the download, each as long as it took."""
    async with traced(emulator={"durations": 3.5, "faults": ["submit: latency 1"]}) as (doitong, spans):
        with spans.tracer.start_as_current_span("request"):
            result = await doitong.generate(PROMPT, version="flux-pro", idempotency_key="K")
            await result.read()
    request = id_of(spans.one("request"))
    submit, job, download = (spans.one(f"doitong {name}") for name in ("submit", "job", "download"))
    assert [parent_of(span) for span in (submit, job, download)] == [request] * 3
    assert (lasted(submit), lasted(job)) == (1.0, 4.0)
    assert submit.kind is SpanKind.CLIENT
    assert dict(submit.attributes or {}) == {
        "http.response.status_code": 200,
        "doitong.job_id": result.id,
        "doitong.attempt": 1,
        "doitong.idempotency_key": "K",
    }
    assert dict(job.attributes or {}) == {
        "doitong.job_id": result.id,
        "doitong.provider": "flux-pro",
        "doitong.version": "flux-pro",
        "doitong.status": "completed",
        "doitong.credit_cost": 20,
    }
    assert [dict(event.attributes or {}) for event in job.events] == [
        {"doitong.status": "processing"},
        {"doitong.status": "completed"},
    ]
    assert (download.attributes or {})["doitong.job_id"] == result.id
    assert {span.status.status_code for span in spans.spans} == {StatusCode.UNSET}


@virtual
async def test_a_poll_is_under_nothing_and_linked_to_its_jobs() -> None:
    """It serves jobs of many callers, and is not part of the span under which the client was opened."""
    async with traced(emulator={"durations": 3.0}) as (doitong, spans):
        await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(3)))
    jobs = {id_of(span) for span in spans.named("doitong job")}
    first, second = spans.named("doitong poll")
    assert parent_of(first) is None
    assert first.context is not None
    assert first.context.trace_id != second.context.trace_id
    assert {link.context.span_id for link in first.links} == jobs
    assert len(jobs) == 3
    assert (first.attributes or {})["doitong.jobs"] == 3


@virtual
async def test_a_job_without_a_callers_span_has_spans_too() -> None:
    """Each begins a trace."""
    async with traced(emulator={"durations": 3.0}) as (doitong, spans):
        await doitong.generate("a fox")
    assert parent_of(spans.one("doitong job")) is None


@virtual
async def test_waits_for_the_plan_are_spans_even_if_they_are_given_up() -> None:
    """By a timeout, or because their caller was cancelled."""
    async with traced(plan=ONE, emulator={"durations": 9.0}) as (doitong, spans):
        job = await doitong.submit("the first")
        with spans.tracer.start_as_current_span("request"):
            with pytest.raises(RateLimitError):
                await doitong.with_options(slot_timeout=1.0).submit("too late")
            leaving = asyncio.ensure_future(doitong.submit("left"))
            await asyncio.sleep(2)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await doitong.submit("the second")
        await job
    waits = spans.named("doitong wait")
    assert [lasted(span) for span in waits] == [1.0, 2.0, 7.0]
    assert [span.status.is_ok for span in waits] == [False, False, True]
    assert {parent_of(span) for span in waits} == {id_of(spans.one("request"))}
    assert (waits[0].attributes or {})["doitong.reason"] == "slot"


@virtual
async def test_a_retry_is_an_event_of_the_callers_span() -> None:
    """And each attempt is a span, with the kind of its failure."""
    async with traced(emulator={"durations": 1.0, "faults": ["submit 1: 500"]}) as (doitong, spans):
        with spans.tracer.start_as_current_span("request"):
            await doitong.generate("a fox")
    (retry,) = spans.one("request").events
    assert retry.name == "doitong retry"
    assert (retry.attributes or {})["doitong.failure"] == "server"
    failed, made = spans.named("doitong submit")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "server")
    assert (failed.attributes or {})["http.response.status_code"] == 500
    assert (made.attributes or {})["doitong.attempt"] == 2


@virtual
async def test_a_failed_job_and_a_failed_download_are_errors() -> None:
    """Their spans say so; the words of the service stay outside."""
    rules = {"durations": 1.0, "faults": ["job 1: fail", "output: html"]}
    async with traced(emulator=rules) as (doitong, spans):
        with pytest.raises(JobFailedError):
            await doitong.generate("a fox")
        with pytest.raises(DownloadError):
            await (await doitong.generate("a hare")).read()
    failed, made = spans.named("doitong job")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "failed")
    assert made.status.status_code is StatusCode.UNSET
    assert spans.one("doitong download").status.status_code is StatusCode.ERROR


@virtual
async def test_a_resumed_job_is_under_the_span_that_resumed_it() -> None:
    """In a batch of a later run, or in another process."""
    async with traced(emulator={"durations": 5.0}) as (doitong, spans):
        job = await doitong.submit("a fox")
        tracing = Tracing(spans.provider)
        async with AsyncDoitong(api_key=KEY, base_url=doitong.emulator.url, on_event=tracing) as other:
            with spans.tracer.start_as_current_span("resumes"):
                await other.job(job.token)
        await job
    assert {parent_of(span) for span in spans.named("doitong job")} == {None, id_of(spans.one("resumes"))}


@virtual
async def test_closing_ends_every_span() -> None:
    """A job that goes on at the service, and a submit that never got its answer."""
    async with traced(emulator={"faults": ["submit 2: latency inf"]}) as (doitong, spans):
        await doitong.submit("a fox")
        unanswered = asyncio.ensure_future(doitong.submit("a hare"))
        await asyncio.sleep(1)
        await doitong.aclose()
        await asyncio.gather(unanswered, return_exceptions=True)
    assert spans.one("doitong job").end_time is not None
    _, cut = spans.named("doitong submit")
    assert (lasted(cut), cut.status.description) == (11.0, "cut off")


@virtual
async def test_no_span_holds_a_prompt_or_a_key() -> None:
    """In no attribute, event or status, however a job ends."""
    rules = {"durations": 3.0, "faults": ["submit 1: 500", "poll 1: 401", "job 2: fail"]}
    async with traced(emulator=rules) as (doitong, spans):
        with spans.tracer.start_as_current_span("request"):
            ends = await asyncio.gather(*(doitong.generate(PROMPT) for _ in range(2)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["JobFailedError", "Result"]
    shown = "".join(span.to_json() for span in spans.spans)
    assert "doitong.job_id" in shown
    assert not [secret for secret in (PROMPT, KEY) if secret in shown]


def test_without_the_extra_only_its_module_is_missing() -> None:
    """It says what to install; the package itself never imports OpenTelemetry."""
    program = """
import sys
sys.modules["opentelemetry"] = None
from doitong_async.testing import emulated, run_virtual

async def main():
    async with emulated() as doitong:
        await doitong.generate("a fox")

run_virtual(main())
try:
    import doitong_async.otel
except ImportError as missing:
    print(missing)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert "pip install 'doitong-async[otel]'" in ran.stdout
