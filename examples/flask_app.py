"""Flask behind gunicorn, also with --preload: each worker process sends its own events.

pip install usage-worker flask gunicorn openai
USAGE_REDIS_URL=redis://localhost:6379/0 gunicorn --preload --workers 2 flask_app:app
curl 'localhost:8000/ask?user=42&question=What+is+a+shard'
"""

from flask import Flask, request
from openai import OpenAI

import usage_worker

usage = usage_worker.UsagePublisher(ids="uuid5")
models = OpenAI()
app = Flask(__name__)


@app.get("/ask")
def ask() -> str:
    with usage.measure(request.args["user"], "support-bot") as call:
        answer = models.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": request.args["question"]}]
        )
        call.response = answer
    return answer.choices[0].message.content or ""
