"""FastAPI: count each answer and each stream.

pip install usage-worker fastapi uvicorn openai
USAGE_REDIS_URL=redis://localhost:6379/0 uvicorn fastapi_app:app
curl 'localhost:8000/ask?user=42&question=What+is+a+shard'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI

import usage_worker

usage = usage_worker.UsagePublisher(ids="uuid5")
models = AsyncOpenAI()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with usage:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(user: str, question: str) -> str:
    async with usage.measure(user, "support-bot") as call:
        answer = await models.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": question}]
        )
        call.response = answer
    return answer.choices[0].message.content or ""


@app.get("/stream")
async def stream(user: str, question: str) -> StreamingResponse:
    chunks = await models.chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},  # without it, OpenAI sends no token counts
    )

    async def texts() -> AsyncIterator[str]:
        # Counted once when the stream ends, also where the browser leaves before that.
        async for chunk in usage.stream(user, "support-bot", chunks):
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""

    return StreamingResponse(texts(), media_type="text/plain")
