"""Who may send a request."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from usage_worker.http.keys import find_key
from usage_worker.loopback import is_loopback

if TYPE_CHECKING:
    from starlette.requests import Request

    from usage_worker.http.keys import ApiKey, Right

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_BASIC = {"WWW-Authenticate": 'Basic realm="usage-worker", charset="UTF-8"'}


class Access:
    """The check of a request's key. Without `require_keys`, clients of this machine need none."""

    def __init__(self, keys: list[ApiKey], *, require_keys: bool) -> None:
        self._keys = keys
        self._require_keys = require_keys

    def check(self, request: Request, right: Right, *, by_browser: bool = False) -> None:
        """Let the request pass if its key has this right; keep the key's name for the log.

        With `by_browser` it may also be the password of Basic authentication, for which a browser is told to ask.

        Raises:
            HTTPException: 401 without a valid key, 403 with one that has another right.
        """
        if not self._require_keys:
            if not _is_local(request):
                # No password would help, so that a browser is not told to ask for one.
                raise HTTPException(401, "USAGE_API_KEYS is not set: only this machine may send requests", _CHALLENGE)
            return
        key = find_key(self._keys, _given_key(request, by_browser=by_browser))
        if key is None:
            if by_browser:
                raise HTTPException(401, "give a key of USAGE_API_KEYS as the password, with any user name", _BASIC)
            raise HTTPException(401, "send a key of USAGE_API_KEYS as Authorization: Bearer KEY", _CHALLENGE)
        request.state.key = key.name
        if key.right != right:
            raise HTTPException(403, f"this key may {key.right}, not {right}")


def key_name_of(request: Request) -> str | None:
    """Return the name of the key of a request that `Access.check` let pass, None where none is needed."""
    return getattr(request.state, "key", None)


def _given_key(request: Request, *, by_browser: bool) -> str:
    """Return the key of the request, empty where there is none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic" or not by_browser:
        return ""
    try:
        decoded = b64decode(given.strip(), validate=True)
    except ValueError:
        return ""
    return decoded.decode("utf-8", "surrogateescape").partition(":")[2]


def _is_local(request: Request) -> bool:
    """Whether client and host are this machine: a page of the web that resolves its own name to it has another host."""
    # Not `request.url`, which has the server's own address where it cannot read this header.
    hosts = request.headers.getlist("host")
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    is_ours = host is not None and is_loopback(host[1] or host[2])
    return is_ours and request.client is not None and is_loopback(request.client.host)
