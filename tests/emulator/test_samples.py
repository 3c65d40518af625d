"""The documentation's samples, sent unchanged except for the host."""

import asyncio
import json
import shutil
from typing import Any

import pytest
from aiohttp import ClientSession

from doitong_async.emulator import Emulator

SAMPLE = {
    "query": (
        "mutation Generate($input: GenerateInput!) { generate(input: $input) "
        "{ id status type provider url metadata creditCost } }"
    ),
    "variables": {
        "input": {
            "type": "IMAGE",
            "provider": "flux-kontext",
            "input": {"text": "A futuristic city with flying cars and neon lights"},
            "options": {"width": 1024, "height": 1024},
        }
    },
}
"""wire/generate-request.json of the API's reference."""

FLAT = {
    "query": (
        "mutation GenerateImage($input: ImageGenerationInput!) "
        "{ generateImage(input: $input) { id url width height } }"
    ),
    "variables": {"input": {"service": "flux-pro", "prompt": "A city", "width": 1024, "height": 768}},
}


@pytest.mark.asyncio
@pytest.mark.skipif(not shutil.which("curl"), reason="the sample is a curl command, and there is no curl")
async def test_curl_sample() -> None:
    """`generate` by curl with a Bearer key: the answer has every requested field."""
    async with Emulator() as emulator:
        arguments = ["-sS", "--noproxy", "*", "-X", "POST", f"{emulator.url}/graphql"]
        arguments += ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer YOUR_API_KEY"]
        curl = await asyncio.create_subprocess_exec(
            "curl", *arguments, "-d", json.dumps(SAMPLE), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await curl.communicate()
        answer: dict[str, Any] = json.loads(out)["data"]["generate"]
        assert answer == {
            "id": next(iter(emulator.world.jobs)),
            "status": "processing",
            "type": "IMAGE",
            "provider": "flux-kontext",
            "url": None,
            "metadata": {"duration": None, "width": 1024, "height": 1024},
            "creditCost": 20,
        }


@pytest.mark.asyncio
async def test_javascript_sample() -> None:
    """The older flat form, as `fetch` sends it."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer YOUR_API_KEY"}
    async with Emulator() as emulator, ClientSession() as session:
        body = json.dumps(FLAT)
        async with session.post(f"{emulator.url}/graphql", data=body, headers=headers) as response:
            assert response.status == 200
            answer = (await response.json())["data"]["generateImage"]
        job = next(iter(emulator.world.jobs))
        assert answer == {"id": job, "url": None, "width": 1024, "height": 768}


@pytest.mark.asyncio
async def test_python_sample() -> None:
    """REST, as `requests.post(url, headers=…, json=…)` sends it."""
    headers = {"X-API-Key": "YOUR_API_KEY", "Accept": "*/*", "User-Agent": "python-requests/2.32.3"}
    body = {"service": "flux-pro", "prompt": "A city", "width": 1024, "height": 1024}
    async with Emulator() as emulator, ClientSession() as session:
        url = f"{emulator.url}/v1/text_to_image"
        async with session.post(url, json=body, headers=headers) as response:
            assert response.status == 200
            answer = await response.json()
        assert answer["id"] in emulator.world.jobs
        assert (answer["status"], answer["provider"], answer["url"]) == ("processing", "flux-pro", None)
