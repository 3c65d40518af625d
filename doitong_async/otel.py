"""OpenTelemetry spans of jobs, made from a client's events: `AsyncDoitong(on_event=Tracing())`.

It needs `pip install 'doitong-async[otel]'`.

| span | lasts | under |
|---|---|---|
| `doitong wait` | while a submit waits for the plan | the caller's span |
| `doitong submit` | for one attempt; the retry is an event of the caller's span | the caller's span |
| `doitong job` | from the accepted submit, or the resuming, to the job's end | the caller's span |
| `doitong download` | while an output is fetched | the caller's span |
| `doitong poll` | for one request, which is about many jobs: it has a link to each | nothing |

Attributes hold ids, kinds and numbers: no prompt, no API key, no text of the service but a job's status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

try:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
    )
except ImportError:
    raise ImportError(
        "doitong_async.otel makes OpenTelemetry spans: pip install 'doitong-async[otel]'"
    ) from None

from doitong_async import __version__, events
from doitong_async.clock import wall_time

_NO_PARENT: Final = Context()


class Tracing:
    """Makes the spans of one client; pass it as `on_event`, or call it from a function of your own.

    Args:
        tracer_provider: the global one by default.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer("doitong_async", __version__, tracer_provider)
        self._jobs: dict[str, Span] = {}

    def __call__(self, event: events.Event) -> None:
        """Take in one event; the client calls this in the context of whoever caused the event."""
        match event:
            case events.WaitEnded(request="submit"):
                failure = None if event.is_granted else "given up"
                self._add("doitong wait", event.seconds, failure, reason=event.reason)
            case events.RequestEnded(kind="submit"):
                self._add_request(
                    event,
                    job_id=next(iter(event.job_ids), None),
                    attempt=event.attempt,
                    idempotency_key=event.idempotency_key,
                )
            case events.RequestEnded():
                jobs = [self._jobs[job_id] for job_id in event.job_ids if job_id in self._jobs]
                links = [Link(span.get_span_context()) for span in jobs]
                self._add_request(event, context=_NO_PARENT, links=links, jobs=len(event.job_ids))
            case events.SubmitAttempted(retry_in=float()):
                facts = _facts(attempt=event.attempt, failure=event.failure, retry_in=event.retry_in)
                get_current_span().add_event("doitong retry", facts, _now())
            case events.DownloadEnded():
                failure = None if event.is_whole else "not whole"
                self._add("doitong download", event.seconds, failure, job_id=event.job_id, size=event.size)
            case events.JobTracked():
                facts = _facts(job_id=event.job_id, provider=event.provider, version=event.version)
                span = self._tracer.start_span("doitong job", attributes=facts, start_time=_now())
                self._jobs[event.job_id] = span
            case events.StatusChanged() | events.JobFinished() | events.JobLetGo():
                if (job := self._jobs.get(event.job_id)) is not None:
                    self._follow(job, event)

    def _follow(self, job: Span, event: events.StatusChanged | events.JobFinished | events.JobLetGo) -> None:
        if isinstance(event, events.StatusChanged):
            job.add_event("doitong status", _facts(status=event.status), _now())
        elif isinstance(event, events.JobFinished):
            job.set_attributes(_facts(status=event.status, credit_cost=event.credit_cost))
            if not event.status.is_success:
                job.set_status(Status(StatusCode.ERROR, event.status))
        else:
            self._jobs.pop(event.job_id).end(_now())

    def _add_request(self, event: events.RequestEnded, **more: Any) -> None:
        failure = event.failure or (None if event.http_status else "cut off")
        status = event.http_status
        self._add(f"doitong {event.kind}", event.seconds, failure, http_status=status, **more)

    def _add(
        self,
        name: str,
        seconds: float,
        failure: str | None,
        *,
        context: Context | None = None,
        links: Sequence[Link] = (),
        **facts: Any,
    ) -> None:
        """Add a span that ends now: one that is begun only at its end is never left open."""
        end = _now()
        begun = end - int(seconds * 1e9)
        kind = SpanKind.INTERNAL if name == "doitong wait" else SpanKind.CLIENT
        span = self._tracer.start_span(name, context, kind, _facts(**facts), links, begun)
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(end)


def _now() -> int:
    """Return epoch nanoseconds by the client's clock, which may be a virtual one."""
    return int(wall_time() * 1e9)


def _facts(*, http_status: int | None = None, **facts: Any) -> dict[str, str | int | float]:
    """Return span attributes, without those that are not known."""
    named = {"http.response.status_code": http_status}
    named |= {f"doitong.{name}": fact for name, fact in facts.items()}
    return {name: fact for name, fact in named.items() if fact is not None}
