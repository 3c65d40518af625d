"""A second Doitong server, written from the reference alone, that keeps its own counts."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import math
import re
from asyncio import StreamReader, StreamWriter, open_connection, start_server
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import gmtime, strftime, time
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
Heads = dict[str, str]
Answer = Callable[[str, Heads, bytes], bytes | None]
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAI"
    "AQEAAD8AP//Z"
)
HANG = b"hang"  # a script's raw bytes for: read the request and never answer
SLACK = 1e-6  # rounding errors such as (t + 60) - 60 must not cause a rejection
_SCHEMA = {
    "GenerateInput": "type:String! provider:String! input:JSON! options:JSON webhookUrl:String",
    "ImageGenerationInput": "service:String! prompt:String! width:Int height:Int version:String "
    "webhookUrl:String",
    "ImageAnimationInput": "service:String! imageUrl:String! duration:Float motionIntensity:String "
    "webhookUrl:String",
    "AvatarGenerationInput": "service:String! text:String! avatarId:String voice:String webhookUrl:String",
    "TTSInput": "service:String! text:String! voice:String speed:Float webhookUrl:String",
    "Generation": "id:ID! status:String type:String provider:String url:String metadata:JSON creditCost:Int "
    "createdAt:String duration:Float webhookUrl:String width:Int height:Int videoUrl:String audioUrl:String",
}
TYPES = {name: dict(part.split(":") for part in parts.split()) for name, parts in _SCHEMA.items()}
MUTATIONS = {
    "generate": "GenerateInput",
    "generateImage": "ImageGenerationInput",
    "animateImage": "ImageAnimationInput",
    "generateAvatar": "AvatarGenerationInput",
    "generateSpeech": "TTSInput",
}
KINDS = {"animateImage": "VIDEO", "generateAvatar": "AVATAR", "generateSpeech": "AUDIO"}  # else as given
SCALARS = {"ID": "str", "String": "str", "Int": "int", "Float": "float int", "JSON": "dict", "Boolean": ""}


@dataclass(frozen=True)
class Behaviour:
    """The choices of this server where the reference leaves a thing open."""

    answer_key: str = "generate"  # or "generateimage", "generateImage"; "generate": each under its own name
    errors_with_200: bool = False  # every GraphQL error, 401 and 429 too; REST keeps the documented status
    status_field: str = "generation"
    status_argument: str = "id"
    status_type: str = "ID!"  # with "Int!" or "Int" ids are numbers, as is the argument of a poll
    introspection: bool = True
    aliases: bool = True
    aliases_count_as_one: bool = True
    keys_honoured: bool = True
    conflict_on_replay: bool = False
    conflict_names_job: bool = True
    over_concurrency: str = "queue"  # or "refuse"
    reset_unit: str = "epoch_s"  # or "epoch_ms", "seconds", "iso"
    rate_headers: bool = True
    period: float = 60.0  # length of the request window, in seconds
    fixed_windows: bool = False  # all requests of a window come back at its end
    clock_ahead: float = 0.0  # error of the clock behind the headers, in seconds
    date: bool = False  # whether an answer has a `Date`, by the same clock
    polls_count: bool = True

    @property
    def has_numbers(self) -> bool:
        """Whether ids are numbers."""
        return self.status_type.startswith("Int")

    def roots(self) -> dict[str, dict[str, dict[str, str]]]:
        """The fields of Query and Mutation, each with its argument and the argument's type."""
        made = {name: {"input": f"{given}!"} for name, given in MUTATIONS.items()}
        return {"Query": {self.status_field: {self.status_argument: self.status_type}}, "Mutation": made}


@dataclass(frozen=True)
class Job:
    """One job, unfinished in [created, ends): its status depends on the time alone."""

    id: str
    created: float
    ends: float
    key: str | None
    cost: int
    shown: Json


@dataclass
class Seen:
    """One request: `status` as sent (0: cut, or raw bytes), `meant` as documented, `counts` in the window."""

    at: float
    kind: str
    headers: Heads
    counts: int
    ids: list[str]
    status: int = 0
    meant: int = 0


class RefusedError(Exception):
    """An error to answer with: a documented status and the GraphQL error."""

    def __init__(self, status: int, message: str, **extensions: str) -> None:
        super().__init__(message)
        self.status, self.error = status, {"message": message, "extensions": extensions}


class Document:
    """A GraphQL document, read by regular expressions; one that they cannot read has no fields."""

    NAME = r"(?:(\w++)\s*+:\s*+)?(\w++)\s*+"
    FIELD = NAME + r"(?:\(([^()]*)\))?\s*+(?:\{([^{}]*)\})?\s*+"
    WHOLE = rf"\s*+(query|mutation)?\s*+\w*\s*+(?:\(([^()]*)\))?\s*+\{{\s*+((?:{FIELD})+)\}}\s*+"
    FRAGMENT = r"\bfragment\s+(\w+)\s+on\s+\w+\s*\{([^{}]*)\}"

    def __init__(self, text: str) -> None:
        text = re.sub(r"#[^\n]*|,", " ", text)
        self.fields: list[tuple[str, str, Heads, list[tuple[str, str]]]] = []  # key, name, variables, below
        self.asks = re.findall(r'(?:(\w+)\s*:\s*)?__(schema|type)\b(?:\s*\(\s*name\s*:\s*["$](\w+))?', text)
        self.kind = "introspection" if self.asks else "other"
        pieces = dict(re.findall(self.FRAGMENT, text))
        text = re.sub(r"\.\.\.\s*(\w+)", lambda at: pieces.get(at[1], "?"), re.sub(self.FRAGMENT, "", text))
        if self.asks or not (whole := re.fullmatch(self.WHOLE, text)):
            return
        self.kind = "submit" if whole[1] == "mutation" else "poll"
        self.declared = dict(re.findall(r"\$(\w+)\s*:\s*([\w!\[\]]+)", whole[2] or ""))
        for alias, name, arguments, below in re.findall(self.FIELD, whole[3]):
            given = dict(re.findall(r"(\w+)\s*:\s*\$(\w+)", arguments))
            asked = [(key or name, name) for key, name in re.findall(self.NAME, below)]
            self.fields.append((alias or name, name, given, asked))

    def fault(self, behaviour: Behaviour) -> str | None:
        """What a GraphQL server would reject in the document before running it."""
        if self.asks:
            return None if behaviour.introspection else "GraphQL introspection is not allowed."
        root = "Mutation" if self.kind == "submit" else "Query"
        known = behaviour.roots()[root]
        for _, name, arguments, below in self.fields:
            if name not in known:
                return f'Cannot query field "{name}" on type "{root}".'
            if {each: self.declared.get(of) for each, of in arguments.items()} != known[name] or not below:
                return f'Field "{name}" takes {known[name]}, as declared variables, and a selection.'
            if unknown := {each for _, each in below} - {"__typename"} - TYPES["Generation"].keys():
                return f'Cannot query field "{unknown.pop()}" on type "Generation".'
        keys = {key for key, *_ in self.fields}
        if len(keys) < len(self.fields) or (len(keys) > 1 and not behaviour.aliases):
            return "Bad Request: too many fields, or too many under one alias"
        return None if self.fields else "Syntax Error: the document cannot be read."


def introspected(document: Document, variables: Json, behaviour: Behaviour) -> Json:
    """The answer to an introspection: the whole schema, whatever part was asked for."""
    nothing = dict.fromkeys(("description", "defaultValue", "deprecationReason", "fields", "inputFields"))

    def ref(name: str) -> Json:
        if name.endswith("!"):
            return {"kind": "NON_NULL", "name": None, "ofType": ref(name[:-1])}
        kind = "SCALAR" if name in SCALARS else "INPUT_OBJECT" if "Input" in name else "OBJECT"
        return {**nothing, "kind": kind, "name": name, "ofType": None, "interfaces": []}

    def entries(parts: dict[str, str]) -> list[Json]:
        each: Json = {**nothing, "isDeprecated": False, "args": []}
        return [{**each, "name": name, "type": ref(of)} for name, of in parts.items()]

    types = {name: ref(name) for name in (*SCALARS, *TYPES)}
    for name, parts in TYPES.items():
        types[name]["fields" if name == "Generation" else "inputFields"] = entries(parts)
    for name, fields in behaviour.roots().items():
        listed = entries(dict.fromkeys(fields, "Generation"))
        types[name] = ref(name) | {"fields": [e | {"args": entries(fields[e["name"]])} for e in listed]}
    whole: Json = {"queryType": types["Query"], "mutationType": types["Mutation"], "subscriptionType": None}
    whole |= {"types": list(types.values()), "directives": [], "description": None}
    named = ((alias or f"__{what}", variables.get(name, name)) for alias, what, name in document.asks)
    return {key: types.get(name) if name else whole for key, name in named}


def http(status: int, body: bytes, content: str, headers: Json) -> bytes:
    """The bytes of an HTTP answer."""
    head = f"HTTP/1.1 {status} \r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}{lines}\r\n".encode() + body


async def read_request(reader: StreamReader) -> tuple[str, Heads, bytes]:
    """Path, headers (names in lower case) and body of a connection's next request; EOFError at its end."""
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return first.split(" ")[1], headers, await reader.readexactly(int(headers.get("content-length", 0)))


@dataclass(kw_only=True, eq=False)
class PlainServer:
    """The server, open inside `async with`; each job takes `seconds`, or `seconds(number)`, counted from 1.

    `rewrite(request, honest)` returns what to send instead of the honest answer to an API request.
    `script(kind, nth)` returns raw bytes or "cut" instead of handling a request, "cut-after" to cut after
    handling it, or None. `pause(kind, nth)` returns how many seconds pass in the middle of an answer.
    """

    behaviour: Behaviour = Behaviour()
    requests_per_minute: int = 600
    concurrent_jobs: int = 10
    jobs_per_day: int | None = None
    seconds: Callable[[int], float] | float = 6.0
    key: str = "k-plain"
    script: Callable[[str, int], bytes | str | None] = lambda kind, nth: None
    pause: Callable[[str, int], float] = lambda kind, nth: 0.0
    picture: Callable[[Job], bytes] = lambda job: JPEG
    rewrite: Callable[[bytes, bytes | None], bytes | None] = lambda request, honest: honest
    webhook_secret: str | None = None

    def __post_init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.webhooks: list[int] = []  # the status answered to each
        self.requests: list[Seen] = []
        self._counts: Counter[str | float] = Counter()  # requests of a kind, jobs of a day
        self._keys: dict[tuple[str | None, int], Job] = {}
        self._window: list[float] = []
        self._foreign_next, self._foreign_step = math.inf, math.inf
        self._listening, self._connections = list[asyncio.Server](), list[Any]()

    async def __aenter__(self) -> PlainServer:
        self._now = asyncio.get_running_loop().time
        self._wall = getattr(asyncio.get_running_loop(), "wall_time", time)
        for answer in (self._answer_api, self._answer_output):
            self._listening.append(await start_server(partial(self._converse, answer), "127.0.0.1", 0))
        ports = [server.sockets[0].getsockname()[1] for server in self._listening]
        self.url, self.outputs_url = (f"http://127.0.0.1:{port}" for port in ports)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._listening:
            server.close()
        for _step in range(4):  # a connection just accepted takes three loop steps to begin
            await asyncio.sleep(0)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections)  # an exception here is this server's own mistake: raise it
        await asyncio.sleep(0)  # the loop step in which closed connections release their sockets

    def most_in_any_minute(self) -> int:
        """Greatest number of counted requests in any 60 seconds, by arrival, rejected ones included."""
        seen = [each.at for each in self.requests for _ in range(each.counts)]
        return max((nth + 1 - bisect_right(seen, at - 60 + SLACK) for nth, at in enumerate(seen)), default=0)

    def most_at_once(self) -> int:
        """Greatest number of unfinished jobs at one moment, always one at which a job is created."""
        created = sorted(job.created for job in self.jobs.values())
        ends = sorted(job.ends for job in self.jobs.values())
        return max((bisect_right(created, at) - bisect_right(ends, at) for at in created), default=0)

    def foreign_load(self, per_minute: float) -> None:
        """From now on another user of the key sends `per_minute` requests, evenly, never rejected."""
        self._admit(0)
        self._foreign_step = 60 / per_minute if per_minute else math.inf
        self._foreign_next = self._now() + self._foreign_step

    async def _converse(self, answer: Answer, reader: StreamReader, writer: StreamWriter) -> None:
        self._connections.append(asyncio.current_task())
        with suppress(EOFError, OSError, asyncio.CancelledError):
            while raw := answer(*await read_request(reader)):
                if raw == HANG:
                    await asyncio.Event().wait()
                kind, sent = self.requests[-1].kind, 0
                if seconds := self.pause(kind, self._counts[kind]):
                    sent = len(raw) // 2
                    writer.write(raw[:sent])
                    await asyncio.sleep(seconds)
                writer.write(raw[sent:])
                await writer.drain()
                head, _, body = raw.partition(b"\r\n\r\n")
                if f"content-length: {len(body)}" not in head.decode("latin-1").lower().split("\r\n"):
                    break  # odd bytes: only the end of the connection ends them
        writer.close()

    def _saw(self, kind: str, headers: Heads, counts: int, ids: list[str]) -> tuple[Seen, bytes | str | None]:
        self.requests.append(Seen(self._now(), kind, headers, counts, ids))
        self._counts[kind] += 1
        return self.requests[-1], self.script(kind, self._counts[kind])

    def _answer_output(self, path: str, headers: Heads, _: bytes) -> bytes | None:
        asked = path.removeprefix("/outputs/").removesuffix(".jpg")
        seen, odd = self._saw("output", headers, 0, [asked])
        if odd is not None:
            return odd if isinstance(odd, bytes) else None
        job = self.jobs.get(asked)
        picture = self.picture(job) if job is not None and job.ends <= self._now() else None
        seen.status = seen.meant = 404 if picture is None else 200
        return http(seen.status, picture or b"", "image/jpeg", {})

    def _answer_api(self, path: str, headers: Heads, raw: bytes) -> bytes | None:
        return self.rewrite(raw, self._honest(path, headers, raw))

    def _honest(self, path: str, headers: Heads, raw: bytes) -> bytes | None:
        body: Json = {}
        with suppress(ValueError, TypeError):
            body = dict(json.loads(raw))
        graphql, document = path == "/graphql", Document(str(body.get("query")))
        kinds = {"/v1/text_to_image": "submit", "/graphql": document.kind}
        kind = kinds.get(path, "poll" if path.startswith("/v1/generations/") else "other")
        name, right = ("authorization", f"Bearer {self.key}") if graphql else ("x-api-key", self.key)
        known = headers.get(name) == right
        units = 1 if self.behaviour.aliases_count_as_one else max(1, len(document.fields))
        units = units if known and (kind != "poll" or self.behaviour.polls_count) else 0
        admitted = self._admit(units)
        seen, odd = self._saw(kind, headers, units, [])
        if odd is not None and odd != "cut-after":
            return odd if isinstance(odd, bytes) else None
        key = headers.get("idempotency-key")
        try:
            if not known:
                raise RefusedError(401, "Unauthorized: missing or invalid API key")
            if not admitted:
                raise RefusedError(429, "Too Many Requests: rate limit exceeded (requests per minute)")
            if graphql:
                seen.meant, answer = self._run(document, body.get("variables"), key, seen.ids)
            elif kind == "submit":
                seen.meant, answer = 200, self._submit("generateImage", body, key, 0, seen.ids)
            elif kind == "poll":
                seen.meant, answer = 200, self._poll(path.rpartition("/")[2], seen.ids)
            else:
                raise RefusedError(404, f"Not Found: there is no {path}")
        except RefusedError as refused:
            seen.meant, answer = refused.status, {"errors": [refused.error]}
        status = 200 if graphql and (self.behaviour.errors_with_200 or seen.meant == 404) else seen.meant
        seen.status = 0 if odd else status
        limits = self._rate_headers() if known else {}
        return None if odd else http(status, json.dumps(answer).encode(), "application/json", limits)

    def _run(self, document: Document, given: Any, key: str | None, ids: list[str]) -> tuple[int, Json]:
        variables: Json = given if isinstance(given, dict) else {}
        if fault := document.fault(self.behaviour):
            raise RefusedError(400, fault)
        if document.asks:
            return 200, {"data": introspected(document, variables, self.behaviour)}
        data, errors, worst = Json(), list[Json](), 200
        for position, (key_asked, name, arguments, below) in enumerate(document.fields):
            spelled = self.behaviour.answer_key != "generate" and key_asked in ("generate", "generateImage")
            shown = self.behaviour.answer_key if spelled and key_asked == name else key_asked
            data[shown], (value,) = None, (variables.get(variable) for variable in arguments.values())
            try:
                makes = document.kind == "submit"
                if not makes and self.behaviour.has_numbers != (type(value) is int):
                    raise RefusedError(400, f'Variable "$i{position}" got invalid value {value!r}')
                full = self._submit(name, value, key, position, ids) if makes else self._poll(str(value), ids)
                data[shown] = {as_key: full[part] for as_key, part in below}
            except RefusedError as refused:
                if len(document.fields) == 1 and refused.status != 404:
                    raise
                worst = refused.status
                errors.append({**refused.error, "path": [shown]})
        return 200 if any(data.values()) else worst, {"data": data} | ({"errors": errors} if errors else {})

    def _poll(self, asked: str, ids: list[str]) -> Json:
        ids.append(asked)
        if asked not in self.jobs:
            raise RefusedError(404, f"Not Found: no generation {asked}")
        return self._rendered(self.jobs[asked], self._now())

    def _submit(self, mutation: str, given: Any, key: str | None, position: int, ids: list[str]) -> Json:
        """Make a job, or answer for a repeated key; `position` separates the jobs of one request."""
        before = self._keys.get((key, position)) if key and self.behaviour.keys_honoured else None
        if before and self.behaviour.conflict_on_replay:
            named = {"id": before.id} if self.behaviour.conflict_names_job else {}
            raise RefusedError(409, "Conflict: this Idempotency-Key was used before", **named)
        job = self._keys[key, position] = before or self._made(self._checked(mutation, given), key)
        ids.append(job.id)
        return self._rendered(job, job.created if before else self._now())

    def _made(self, shown: Json, key: str | None) -> Job:
        now, day = self._now(), self._wall() // 86400
        if self.jobs_per_day is not None and self._counts[day] >= self.jobs_per_day:
            raise RefusedError(429, "Too Many Requests: jobs per day exceeded")
        ends = sorted((job.ends for job in self.jobs.values() if job.ends > now), reverse=True)
        # A queued job starts when the `concurrent_jobs`th from the last of those before it ends.
        starts = ends[self.concurrent_jobs - 1] if len(ends) >= self.concurrent_jobs else now
        if starts > now and self.behaviour.over_concurrency == "refuse":
            raise RefusedError(429, "Too Many Requests: concurrent jobs exceeded")
        nth = len(self.jobs) + 1
        lasts = self.seconds(nth) if callable(self.seconds) else self.seconds
        cost = (10, 20, 30, 50)[sum(shown["width"] * shown["height"] > side**2 for side in (512, 1024, 2048))]
        created_at = strftime("%FT%TZ", gmtime(self._wall()))
        shown |= {
            "id": str(nth) if self.behaviour.has_numbers else f"plain{nth:05d}",
            "creditCost": cost,
            "createdAt": created_at,
        }
        job = self.jobs[shown["id"]] = Job(shown["id"], now, starts + lasts, key, cost, shown)
        self._counts[day] += 1
        if self.webhook_secret and shown["webhookUrl"]:
            self._connections.append(asyncio.ensure_future(self._send_webhook(job, self.webhook_secret)))
        return job

    async def _send_webhook(self, job: Job, secret: str) -> None:
        """Send the documented webhook once when the job ends, signed over its raw body."""
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(job.ends - self._now())
            ended_at = strftime("%FT%TZ", gmtime(self._wall()))
            shown = self._rendered(job, job.ends) | {
                "service": job.shown["provider"],
                "completedAt": ended_at,
            }
            documented = ("id", "status", "url", "service", "createdAt", "completedAt", "metadata")
            body = json.dumps({name: shown[name] for name in documented}).encode()
            there = urlsplit(shown["webhookUrl"])
            head = f"POST {there.path or '/'} HTTP/1.1\r\nHost: {there.netloc}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            head += f"X-Doitong-Signature: sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}\r\n"
            reader, writer = await open_connection(there.hostname, there.port)
            writer.write(f"{head}\r\n".encode() + body)
            self.webhooks.append(int((await reader.read()).split(b" ")[1]))
            writer.close()

    def _checked(self, mutation: str, given: Any) -> Json:
        """What an answer shows of the input; raises the 400 for an input that does not fit its type."""
        types, given = TYPES[MUTATIONS[mutation]], given if isinstance(given, dict) else {}
        given = {name: value for name, value in given.items() if value is not None}
        wrong = [name for name in types if types[name][-1] == "!" and name not in given]
        fits = {name: SCALARS[of.rstrip("!")].split() for name, of in types.items()}
        wrong += [name for name in given if type(given[name]).__name__ not in fits.get(name, ())]
        if wrong:
            raise RefusedError(400, f"Bad Request: of {MUTATIONS[mutation]}, what is wrong is {wrong}")
        inner, options = given.get("input", given), given.get("options") or given
        kind, text = KINDS.get(mutation, given.get("type", "IMAGE")), inner.get("text", given.get("prompt"))
        sizes = [options.get(name, 1024) for name in ("width", "height")]
        if (kind == "IMAGE" and not text) or any(type(size) is not int or size <= 0 for size in sizes):
            raise RefusedError(400, "Bad Request: an image needs a text, a size is a positive whole number")
        shown = {"type": kind, "provider": given.get("provider") or given.get("service")}
        shown |= {"__typename": "Generation", "webhookUrl": {**inner, **options, **given}.get("webhookUrl")}
        return shown | {"width": sizes[0], "height": sizes[1], "duration": None}

    def _rendered(self, job: Job, at: float) -> Json:
        done = at >= job.ends
        url = f"{self.outputs_url}/outputs/{job.id}.jpg" if done else None
        urls = {"url": url, "videoUrl": url if job.shown["type"] in ("VIDEO", "AVATAR") else None}
        urls["audioUrl"] = url if job.shown["type"] == "AUDIO" else None
        metadata = {name: job.shown[name] for name in ("duration", "width", "height")}
        return {**job.shown, **urls, "status": "completed" if done else "processing", "metadata": metadata}

    def _admit(self, units: int) -> bool:
        """Whether the window has room for `units` more; a rejected request takes none."""
        while self._foreign_next <= self._now():
            self._window.append(self._foreign_next)
            self._foreign_next += self._foreign_step
        if (
            self.behaviour.fixed_windows
            and self._window
            and self._now() >= self._window[0] + self.behaviour.period - SLACK
        ):
            self._window = []
        elif not self.behaviour.fixed_windows:
            self._window = [at for at in self._window if at > self._now() - self.behaviour.period + SLACK]
        admitted = not units or len(self._window) + units <= self.requests_per_minute
        self._window += [self._now()] * units * admitted
        return admitted

    def _rate_headers(self) -> Json:
        ahead = (
            (self._window[0] if self._window else self._now()) + self.behaviour.period - self._now() - SLACK
        )
        served = self._wall() + self.behaviour.clock_ahead
        wall = served + ahead  # rounded up below: a client that waits until then must not come too early
        resets = {"epoch_s": math.ceil(wall), "epoch_ms": math.ceil(wall * 1000), "seconds": math.ceil(ahead)}
        reset = resets.get(self.behaviour.reset_unit, strftime("%FT%TZ", gmtime(math.ceil(wall))))
        left = max(0, self.requests_per_minute - len(self._window))
        headers = {"Limit": self.requests_per_minute, "Remaining": left, "Reset": reset}
        date = {"Date": strftime("%a, %d %b %Y %T GMT", gmtime(served))} if self.behaviour.date else {}
        return date | {
            f"X-RateLimit-{name}": value for name, value in headers.items() if self.behaviour.rate_headers
        }
