"""The REST endpoint: `POST /v1/text_to_image` as documented, `GET /v1/generations/<id>` as we assume."""

from collections.abc import Callable

from doitong_async.emulator.accounts import Submission
from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.calls import Call, Operation, Reply, fingerprint
from doitong_async.emulator.orders import from_flat
from doitong_async.emulator.world import World

_CREATE = "/v1/text_to_image"
_STATUS = "/v1/generations/"


class RestFace:
    """Answers `/v1/…`; the form of answers is undocumented: here it is the bare generation."""

    def __init__(self, world: World, outputs_url: Callable[[], str]) -> None:
        self._world = world
        self._outputs_url = outputs_url

    def read(self, call: Call) -> Operation:
        """Read a call as far as its kind."""
        if call.path == _CREATE:
            _only(call, "POST")
            return Operation("submit", lambda key: self._create(call, key))
        if call.path.startswith(_STATUS):
            _only(call, "GET")
            return Operation("poll", lambda key: self._poll(call, key))
        raise ApiError("NOT_FOUND", f"There is nothing at {call.path}")

    def _create(self, call: Call, key: str) -> Reply:
        body = call.json()
        sender = Submission(key, call.header("Idempotency-Key"), fingerprint(body))
        job = self._world.submit(from_flat("IMAGE", body), sender, call.now, call.wall)
        return Reply(200, job.fields_at(job.created_at, self._outputs_url()), (job.id,))

    def _poll(self, call: Call, key: str) -> Reply:
        job = self._world.poll(key, call.path.removeprefix(_STATUS), call.now)
        return Reply(200, job.fields_at(call.now, self._outputs_url()), (job.id,))


def _only(call: Call, method: str) -> None:
    if call.method != method:
        raise ApiError("METHOD_NOT_ALLOWED", f"{call.path} is spoken with {method}")
