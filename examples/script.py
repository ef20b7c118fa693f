"""A script: what is buffered is sent when it ends, also after an exception.

pip install usage-worker openai
USAGE_REDIS_URL=redis://localhost:6379/0 python script.py 42 'What is a shard?'
"""

import sys

from openai import OpenAI

import usage_worker

user, question = sys.argv[1:]
usage = usage_worker.UsagePublisher(ids="uuid5")
response = OpenAI().responses.create(model="gpt-5-mini", input=question)
usage.track_response(user, "support-bot", response, event_id=response.id)
print(response.output_text)
