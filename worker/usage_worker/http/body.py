"""The body of a request: read in bounded time and memory, decompressed, and parsed."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import anyio
from starlette.exceptions import HTTPException

from usage_worker.events.values import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BYTES = 2 * 2**20
"""Of a body, before and after it is decompressed: about 7,000 events."""
MAX_VALUES = 150_000
"""Of a body, counted by commas and opening brackets; 2 MiB can hold 700,000. Parsing 150,000 takes 0.3 s; 5,000 events
with 20 fields each have 100,000."""
BODY_SECONDS = 30.0
# A client that still sends would not see the answer, so some of what is too much is read and dropped.
_MOST_DISCARDED = 8 * MAX_BYTES
_GZIP = 16 + zlib.MAX_WBITS
# The rest of the body is not read.
_CLOSE = {"Connection": "close"}
_TOO_LARGE = f"the body is larger than {MAX_BYTES:,} bytes, also counted after decompression; send fewer events at once"


async def read_body(request: Request) -> bytes:
    """Return the body, decompressed.

    Raises:
        HTTPException: 408 when it takes more than 30 s, 413 when it is too large, 415 for a compression other than
            gzip, 400 when it cannot be decompressed.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("gzip", "x-gzip", "identity"):
        raise HTTPException(415, "Content-Encoding: only gzip", {"Accept-Encoding": "gzip"})
    try:
        with anyio.fail_after(BODY_SECONDS):
            received = await _received(request)
    except TimeoutError:
        raise HTTPException(408, f"the body took more than {BODY_SECONDS:.0f} s", _CLOSE) from None
    return received if coding == "identity" else decompressed(received)


async def _received(request: Request) -> bytes:
    received, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BYTES:
            received += chunk
        elif size > _MOST_DISCARDED:
            break
    if size > MAX_BYTES:
        raise HTTPException(413, _TOO_LARGE, _CLOSE)
    return bytes(received)


def decompressed(body: bytes) -> bytes:
    """Return the contents of a gzip file with one member.

    Raises:
        HTTPException: 413 when they are too large, of which no more are decompressed; 400 when it is not gzip, or cut
            off.
    """
    reader = zlib.decompressobj(_GZIP)
    try:
        contents = reader.decompress(body, MAX_BYTES + 1)
    except zlib.error:
        raise HTTPException(400, "the body is not gzip") from None
    if len(contents) > MAX_BYTES:
        raise HTTPException(413, _TOO_LARGE)
    if not reader.eof or reader.unused_data:
        raise HTTPException(400, "the gzip body is cut off, or has more behind its end")
    return contents


def parsed(body: bytes) -> Any:
    """Parse JSON, whose numbers are exact: see `read_json`.

    Raises:
        HTTPException: 400, it is not JSON in UTF-8; 413, it has too many values.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise HTTPException(413, f"the body has more than {MAX_VALUES:,} values; send fewer events at once")
    try:
        return read_json(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not UTF-8") from None
    except RecursionError:
        raise HTTPException(400, "the body is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
