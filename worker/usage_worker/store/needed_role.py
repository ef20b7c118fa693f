"""The role that a command needs, named where ours lacks a right."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.errors import RoleError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needed_role(*roles: str) -> Iterator[None]:
    """Say in the error of a missing right that DATABASE_URL must name the owner or a login with one of these roles.

    Raises:
        RoleError: the role lacks a right.
    """
    try:
        yield
    except RoleError as error:
        if error.__cause__ is None:
            raise
        raise wrong_role(str(error.__cause__), *roles) from error.__cause__


def wrong_role(reason: str, *roles: str) -> RoleError:
    """Return the error that our role may not do something, which the owner and logins with these roles may."""
    return RoleError(f"{reason}; this needs the DATABASE_URL of the owner, or of a login with {' or '.join(roles)}")
