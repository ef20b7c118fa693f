"""Celery: a task counts like any other code; a worker process sends what is left when it ends.

pip install usage-worker 'celery[redis]' openai
export USAGE_REDIS_URL=redis://localhost:6379/0 CELERY_BROKER_URL=redis://localhost:6379/1
celery -A celery_app worker
python -c 'import celery_app; celery_app.ask.delay("42", "What is a shard?")'
"""

from celery import Celery
from openai import OpenAI

import usage_worker

app = Celery("example")
usage = usage_worker.UsagePublisher(ids="uuid5")
models = OpenAI()


@app.task(acks_late=True)
def ask(user: str, question: str) -> None:
    # The id of the task is the event's: a task that runs again after a crash counts once.
    task_id = ask.request.id
    with usage.measure(user, "support-bot", event_id=f"ask:{task_id}") as call:
        call.response = models.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": question}]
        )
