"""A function of AWS Lambda or the like: the platform freezes the process once it has answered, so flush before.

pip install usage-worker openai
"""

from typing import Any

from openai import OpenAI

import usage_worker

usage = usage_worker.UsagePublisher(ids="uuid5", linger=0)
models = OpenAI()


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    with usage.measure(event["user"], "support-bot") as call:
        answer = models.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": event["question"]}]
        )
        call.response = answer
    usage.flush(timeout=2)
    return {"statusCode": 200, "body": answer.choices[0].message.content}
