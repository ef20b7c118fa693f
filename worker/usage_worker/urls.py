"""The forms of the URLs in settings. Each function returns a URL that has its form, or is empty.

It raises ValueError for another one, whose message does not quote the text, which may be part of a password.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

DATABASE_SCHEMES = ("postgresql", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "unix")
# After these, a URL may name several hosts.
PLURAL_SCHEMES = ("redis+sentinel", "rediss+sentinel", "sentinel", "redis+cluster", "rediss+cluster")
# Host, port and path, without a user and without parameters.
_SERVICE = re.compile(r"https?://(?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[!\"$->@-~]*)?")
_NO_PORT = "the port is not a number; write / # ? @ in a password as %2F %23 %3F %40"
_MISPLACED_AT = "an @ stands behind the host; write / # ? @ in a password as %2F %23 %3F %40"


def checked_redis_url(url: str) -> str:
    """Check the URL of a Redis, of its Sentinels, or of nodes of its Cluster."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        for place in _places(url, parts.netloc):
            urlsplit(f"//{place}").port  # noqa: B018 - reading it is the check
    except ValueError:
        raise ValueError(_NO_PORT) from None
    if parts.scheme != "unix" and "@" in parts.path + parts.fragment + parts.query.partition("=")[0]:
        raise ValueError(_MISPLACED_AT)
    if url.partition("://")[0] in PLURAL_SCHEMES:
        return url
    return _checked_scheme(url, REDIS_SCHEMES)


def checked_database_url(url: str) -> str:
    """Check the URL of a PostgreSQL, also of several hosts."""
    if not url:
        return url
    # As libpq reads it: the user part ends at the first @ before a slash. A password that is cut in two there would
    # become a part of the host, the port or the database, which the driver's messages quote.
    place = re.sub(r"^[^:]*://([^@/]*@)?", "", url).partition("?")[0]
    ports = [host.rpartition("]")[2].partition(":")[2] for host in place.partition("/")[0].split(",")]
    if any(port and not port.isdigit() for port in ports):
        raise ValueError(_NO_PORT)
    if "@" in place:
        raise ValueError(_MISPLACED_AT)
    return _checked_scheme(url, DATABASE_SCHEMES)


def checked_broker_url(url: str) -> str:
    """Check the scheme of a broker's URL; what stands behind it is read where Celery is loaded."""
    if url and not re.match(r"[a-z][a-z0-9+]*://", url):
        raise ValueError("must be a URL as redis://host or amqp://user:password@host/vhost")
    return url


def checked_service_url(url: str, otherwise: str) -> str:
    """Check the URL of an HTTP service, which has no login: `otherwise` says where that belongs."""
    # As strict as urllib's own reading is lax: its complaints quote a password.
    match = re.fullmatch(_SERVICE, url)
    if url and not (match and int(match["port"] or 0) < 2**16):
        raise ValueError(f"write https://host/path; {otherwise}")
    return url


def _places(url: str, place: str) -> list[str]:
    """Return the hosts of a URL with their ports."""
    return place.rpartition("@")[2].split(",") if url.partition("://")[0] in PLURAL_SCHEMES else [place]


def _checked_scheme(url: str, schemes: tuple[str, ...]) -> str:
    # Not by urlsplit, whose complaints quote the password.
    if url.partition("://")[0] not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return url
