"""The least server of this kind: FastAPI passes the samples of a call on, without checks, cache, formats or retries.

python benchmarks/bare_server.py PORT GEMINI
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

MODEL = "gemini-3.8-flash-tts"
VOICE = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}


class Body(BaseModel):
    """What to speak."""

    input: str


def speaker(client: httpx2.AsyncClient, gemini: str) -> Callable[[Body], Awaitable[StreamingResponse]]:
    """A route that speaks."""
    url = f"{gemini}/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"

    async def samples(text: str) -> AsyncIterator[bytes]:
        asked = {
            "contents": [{"role": "user", "parts": [{"text": text}]}],
            "generationConfig": {"responseModalities": ["AUDIO"], "speechConfig": VOICE},
        }
        async with client.stream("POST", url, json=asked, headers={"x-goog-api-key": "any"}) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                candidates = json.loads(line[6:]).get("candidates", []) if line.startswith("data: ") else []
                for part in (part for each in candidates for part in each.get("content", {}).get("parts", [])):
                    yield base64.b64decode(part["inlineData"]["data"])

    async def speak(body: Body) -> StreamingResponse:
        return StreamingResponse(samples(body.input), media_type="audio/pcm")

    return speak


def main() -> None:
    """Serve until SIGTERM."""
    port, gemini = sys.argv[1:]
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    app = FastAPI()
    app.post("/v1/audio/speech")(speaker(httpx2.AsyncClient(limits=limits, timeout=60), gemini))
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False, log_level="warning", timeout_keep_alive=600)


if __name__ == "__main__":
    main()
