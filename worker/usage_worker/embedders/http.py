"""A POST request with a time limit, tried again where the service asks for it or the connection fails."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from usage_worker.embedders.timed import TimedHTTPHandler, TimedHTTPSHandler
from usage_worker.errors import EmbedderUnavailableError
from usage_worker.printable import REASON_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.client import HTTPResponse

# Seconds for an answer, from the first byte sent to the last one received.
ANSWER_SECONDS = 30.0
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.25
# A service that wants a longer pause is left to the next run of the task.
LONGEST_PAUSE_SECONDS = 10.0
# 64 vectors of 4,096 numbers are 6 MB of JSON.
LARGEST_ANSWER = 64 * 2**20
_TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a service: `retry_after` is the header's value, empty where there is none."""

    status: int
    body: bytes
    retry_after: str = ""

    @property
    def is_ok(self) -> bool:
        return self.status == HTTPStatus.OK

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TEMPORARY or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def complaint(self) -> str:
        """The status with its meaning. Not what the service says: its message may quote a text or a part of the key."""
        known = {status.value: status.phrase for status in HTTPStatus}
        return f"the service answers {self.status} {known.get(self.status, '')}".rstrip()


class _NoRedirects(HTTPRedirectHandler):
    """Follows nothing: urllib would send the key to the other host, and the request as GET."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


@cache
def _opener() -> OpenerDirector:
    """Return what sends requests, through the proxies that the environment names."""
    return build_opener(_NoRedirects, TimedHTTPHandler, TimedHTTPSHandler)


def post(url: str, body: bytes, headers: Mapping[str, str], answer_seconds: float) -> Answer:
    """Send a request, up to `ATTEMPTS` times while the answer is a temporary one.

    Raises:
        EmbedderUnavailableError: there was no answer; one that takes longer than `answer_seconds` is not asked again.
    """
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        answer = _post_once(Request(url, body, dict(headers), method="POST"), answer_seconds)  # noqa: S310 - checked by the settings
        if isinstance(answer, Answer) and not answer.is_temporary:
            return answer
        wanted = _seconds(answer.retry_after) if isinstance(answer, Answer) else 0.0
        if attempt == ATTEMPTS or wanted > LONGEST_PAUSE_SECONDS:
            break
        # By chance, so that the processes that were refused together do not come together again.
        time.sleep(max(wanted, random.uniform(pause / 2, pause)))  # noqa: S311 - not a secret
        pause *= 2
    if isinstance(answer, Answer):
        return answer
    raise EmbedderUnavailableError(f"{answer}; is USAGE_EMBEDDER_URL right and the service up?")


def _post_once(request: Request, answer_seconds: float) -> Answer | str:
    """Return the answer, or why there is none.

    Raises:
        EmbedderUnavailableError: it has not come in time.
    """
    try:
        with _opener().open(request, timeout=answer_seconds) as response:
            return Answer(response.status, _read(response))
    except HTTPError as error:
        with error:
            return Answer(error.code, b"", error.headers.get("Retry-After") or "")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise EmbedderUnavailableError(f"no answer within {answer_seconds:g} s") from None
        return printable(str(reason) or type(reason).__name__, REASON_LENGTH)


def _read(response: HTTPResponse) -> bytes:
    """Read the body.

    Raises:
        TimeoutError: it has not ended in time.
        ValueError: it is too long.
    """
    parts, size = [], 0
    while part := response.read1(2**16):
        size += len(part)
        if size > LARGEST_ANSWER:
            raise ValueError(f"the answer is longer than {LARGEST_ANSWER} bytes")
        parts.append(part)
    if response.length:
        raise ConnectionError("the connection was cut during the answer")
    return b"".join(parts)


def _seconds(retry_after: str) -> float:
    """Return the seconds that a header Retry-After asks for, 0 where it has neither seconds nor a date."""
    try:
        if retry_after.strip().isdigit():
            return float(retry_after)
        return max((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
