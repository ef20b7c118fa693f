"""Connections of urllib on which a whole answer has a time limit: that of a socket is one for each part it receives."""

from __future__ import annotations

import io
import time
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.request import HTTPHandler, HTTPSHandler

from typing_extensions import override

if TYPE_CHECKING:
    from socket import socket
    from urllib.request import Request


class _TimedStream(io.RawIOBase):
    """What a socket receives, until the deadline."""

    def __init__(self, sock: socket, stream: io.RawIOBase, deadline: float) -> None:
        self._sock = sock
        self._stream = stream
        self._deadline = deadline

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._stream.readinto(buffer)

    @override
    def close(self) -> None:
        self._stream.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket, *arguments: Any, deadline: float, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = io.BufferedReader(_TimedStream(sock, self.fp.detach(), deadline))


def _timed(connection: HTTPConnection) -> None:
    assert connection.timeout is not None  # noqa: S101 - `Request` always has one here
    deadline = time.monotonic() + connection.timeout
    connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]


class _Connection(HTTPConnection):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _timed(self)


class _SecureConnection(HTTPSConnection):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _timed(self)


class TimedHTTPHandler(HTTPHandler):
    """Opens http:// with one time limit for connecting, sending and the whole answer."""

    @override
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Connection, request)


class TimedHTTPSHandler(HTTPSHandler):
    """Opens https:// likewise."""

    @override
    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, request)
