"""The role that a command needs, named where ours lacks a right."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg.errors import InsufficientPrivilege

from usage_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needed_role(*roles: str) -> Iterator[None]:
    """Say in the error of a missing right that DATABASE_URL must name the owner or a login with one of these roles.

    Raises:
        SettingsError: the role lacks a right.
    """
    try:
        yield
    except SettingsError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        raise wrong_role(str(error.__cause__), *roles) from error.__cause__


def wrong_role(reason: str, *roles: str) -> SettingsError:
    """Return the error that our role may not do something, which the owner and logins with these roles may."""
    return SettingsError(f"{reason}; DATABASE_URL must name the owner, or a login with {' or '.join(roles)}")
