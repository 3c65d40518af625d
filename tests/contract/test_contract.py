"""What the reference promises and this library assumes, case by case on every service."""

from __future__ import annotations

import asyncio
import io
import secrets
from datetime import datetime
from urllib.parse import urlsplit

import aiohttp
import pytest
from PIL import Image

from doitong_async import (
    AuthenticationError,
    BadRequestError,
    JobNotFoundError,
    JobStatus,
    SubmitOutcomeUnknownError,
)
from tests.contract.services import GENERATE, SIDE, Service, contract

PROMPT = "A futuristic city with flying cars and neon lights"
INPUT = {
    "type": "IMAGE",
    "provider": "flux-pro",
    "input": {"text": PROMPT},
    "options": {"width": SIDE, "height": SIDE},
}


@contract(pictures=1)
async def test_a_prompt_becomes_a_picture_of_the_requested_size(service: Service) -> None:
    """Reference, "Create a job", "What comes back", "Credits": one prompt, one JPEG, for 10 to 20 credits."""
    async with service.client() as doitong:
        result = await doitong.generate(PROMPT)
        picture = Image.open(io.BytesIO(await result.read()))
    assert picture.format == "JPEG"
    assert picture.size == (SIDE, SIDE) or not service.draws
    assert result.credit_cost is not None
    assert 10 <= result.credit_cost <= 20
    assert (result.type, result.provider) == ("IMAGE", "flux-pro")


@contract(pictures=1)
async def test_an_output_is_on_another_host_and_needs_no_key(service: Service) -> None:
    """Reference, "Endpoints and keys": outputs have their own origin, which asks for no key."""
    async with service.client() as doitong:
        url = (await doitong.generate(PROMPT)).url
    assert urlsplit(url).netloc != urlsplit(service.base_url).netloc
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        assert response.content_type == "image/jpeg"
        assert (await response.read()).startswith(b"\xff\xd8\xff")


@contract(pictures=1)
async def test_the_documented_request_brings_the_documented_fields(service: Service) -> None:
    """Reference, "Create a job": the mutation as shown, over raw HTTP; "url (null until completed)"."""
    answer = await service.ask(GENERATE, {"input": INPUT})
    assert answer.status == 200
    job = answer.job
    assert isinstance(job["id"], str)
    assert job["id"]
    assert (job["type"], job["provider"]) == ("IMAGE", "flux-pro")
    assert JobStatus(job["status"]).is_known
    assert not JobStatus(job["status"]).is_failure
    assert (job["url"] is not None) == (job["status"] == "completed")
    assert job["creditCost"] >= 10
    assert datetime.fromisoformat(job["createdAt"]).tzinfo is not None


@contract(pictures=1)
async def test_the_flat_form_makes_a_picture_too(service: Service) -> None:
    """Reference, "The flat forms": `generateImage` with `service` and `prompt` side by side."""
    document = (
        "mutation GenerateImage($input: ImageGenerationInput!) "
        "{ generateImage(input: $input) { id url width height creditCost } }"
    )
    given = {"service": "flux-pro", "prompt": PROMPT, "width": SIDE, "height": SIDE}
    answer = await service.ask(document, {"input": given})
    assert answer.status == 200
    assert (answer.job["width"], answer.job["height"]) == (SIDE, SIDE)


@contract(pictures=1)
async def test_the_client_resumes_a_job_made_over_rest(service: Service) -> None:
    """Reference, "Endpoints and keys": `POST /v1/text_to_image` makes a job like any other."""
    given = {"service": "flux-pro", "prompt": PROMPT, "width": SIDE, "height": SIDE}
    answer = await service.post("/v1/text_to_image", given, X_API_Key=service.key)
    assert answer.status in (200, 201, 202)
    async with service.client() as doitong:
        result = await doitong.job(str(answer.job["id"]))
        assert (await result.read()).startswith(b"\xff\xd8\xff")


@contract(pictures=0)
async def test_every_answer_has_the_documented_headers(service: Service) -> None:
    """Reference, "Plans": three headers, and the limit is that of the key's plan."""
    headers = (await service.ask("query { __typename }")).headers
    assert int(headers["X-RateLimit-Limit"]) == service.plan.requests_per_minute
    assert 0 <= int(headers["X-RateLimit-Remaining"]) <= service.plan.requests_per_minute
    assert headers["X-RateLimit-Reset"].strip()


@contract(pictures=0)
async def test_a_wrong_key_is_rejected(service: Service) -> None:
    """Reference, "Errors", 401: the client says that nothing was charged."""
    async with service.client(api_key="no-key-of-anybody") as doitong:
        with pytest.raises(AuthenticationError) as caught:
            await doitong.generate(PROMPT)
    assert caught.value.http_status in (200, 401)


@contract(pictures=1)
async def test_a_bad_request_is_rejected(service: Service) -> None:
    """Reference, "Errors", 400: an empty text makes no job; if it does, that is one picture."""
    async with service.client() as doitong:
        with pytest.raises(BadRequestError) as caught:
            await doitong.generate(input={"text": ""})
    assert caught.value.http_status in (200, 400)


@contract(pictures=2)
async def test_the_same_key_twice_makes_one_job(service: Service) -> None:
    """Reference, "Retries and idempotency": a replay, or a conflict that names the job."""
    async with service.client() as doitong:
        key = f"contract-{secrets.token_hex(8)}"
        once = await doitong.submit(PROMPT, idempotency_key=key)
        await once
        try:
            again: str | None = (await doitong.submit(PROMPT, idempotency_key=key)).id
        except SubmitOutcomeUnknownError as conflict:
            again = conflict.job_id
    assert again == once.id
    assert service.jobs is None or service.jobs() == 1


@contract(pictures=1)
async def test_a_token_resumes_a_job_under_any_name_of_the_status_query(service: Service) -> None:
    """Reference, "Unknown": if the setting is wrong, introspection finds the right operation."""
    async with service.client() as doitong:
        job = await doitong.submit(PROMPT)
    async with service.client(status_operation="nobodyKnowsThis(id: ID!)") as another:
        statuses = [update.status async for update in another.job(job.token).updates()]
        result = await another.job(job.token)
    assert result.id == job.id
    assert statuses[-1] is JobStatus.COMPLETED
    assert all(status.is_known for status in statuses)


@contract(pictures=2)
async def test_concurrent_jobs_get_their_own_outputs(service: Service) -> None:
    """Reference, "Unknown": status requests with aliases, in one request or several, are never mixed up."""
    async with service.client() as doitong:
        results = await asyncio.gather(*(doitong.generate(f"{PROMPT}, {time}") for time in ("dawn", "dusk")))
    assert len({result.id for result in results}) == len({result.url for result in results}) == 2


@contract(pictures=0)
async def test_an_unknown_job_is_not_found(service: Service) -> None:
    """Reference, "Unknown": a status request for an unknown id says so, in one form or another."""
    async with service.client() as doitong:
        with pytest.raises(JobNotFoundError):
            await doitong.job("nobodymadethis")
