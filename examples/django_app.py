"""Django in one file: a middleware says who asks, so that views need not.

pip install usage-worker django gunicorn openai
USAGE_REDIS_URL=redis://localhost:6379/0 gunicorn django_app:application
curl 'localhost:8000/ask?user=42&question=What+is+a+shard'
"""

from collections.abc import Callable

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from openai import OpenAI

import usage_worker

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="example", MIDDLEWARE=[f"{__name__}.count_for_user"]
)
usage = usage_worker.UsagePublisher(ids="uuid5")
models = OpenAI()


def count_for_user(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        # An application with sessions takes request.user.pk.
        with usage_worker.context(user_id=request.GET["user"], agent_id="support-bot"):
            return view(request)

    return middleware


def ask(request: HttpRequest) -> HttpResponse:
    with usage.measure() as call:
        answer = models.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": request.GET["question"]}]
        )
        call.response = answer
    return HttpResponse(answer.choices[0].message.content)


urlpatterns = [path("ask", ask)]
application = get_wsgi_application()
