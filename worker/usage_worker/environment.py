"""How settings are read from environment variables.

Without pydantic-settings, which took 80 ms of processor time, a quarter of what an application spent on importing
`UsagePublisher`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from usage_worker.errors import SettingsError
from usage_worker.printable import LINE_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=BaseModel)

# The first that is set counts. REDIS_URL may be the application's own, for a cache or as Celery's broker.
REDIS_VARIABLES = ("USAGE_REDIS_URL", "REDIS_URL")
# A variable with this ending names the file with the value.
_FILE = "_FILE"
_VARIABLES = {"redis_url": REDIS_VARIABLES, "database_url": ("DATABASE_URL",)}
# A list of 10,000 keys has 1 MB; /dev/zero has no end.
_MAX_SECRET = 2**20


def variables_of(name: str) -> tuple[str, ...]:
    """Return the environment variables of a setting, of which the first that is set counts."""
    return _VARIABLES.get(name, (f"USAGE_{name.upper()}",))


def known_variables(form: type[BaseModel]) -> set[str]:
    """Return every environment variable that `read_form` reads for a form."""
    return {
        variable + ending
        for name, field in form.model_fields.items()
        for variable in variables_of(name)
        for ending in (("",) if field.repr else ("", _FILE))
    }


def variables_of_file() -> dict[str, str | None]:
    """Read the variables that `.env` sets; none where there is no such file.

    Raises:
        SettingsError: it cannot be read.
    """
    from dotenv import dotenv_values  # noqa: PLC0415 - belongs to the extra `server`; a publisher reads no file

    try:
        return dotenv_values(".env")
    except OSError as error:
        raise SettingsError(f".env: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(".env: this file is not text in UTF-8") from None


def read_form(form: type[T], *sources: Mapping[str, str | None], **given: Any) -> T:
    """Read the settings of a form, each from the first source that has it; what is given is used instead.

    A secret, which is a field that repr leaves out, may stand in a file that `VARIABLE_FILE` names.

    Raises:
        SettingsError: one is wrong; the message names its variable without the value, which may be secret.
    """
    values, variables = {}, {}
    for name, field in form.model_fields.items():
        if name in given:
            continue
        look_up = _text_of if field.repr else _secret_of
        # Not read further than the first: a file that is not needed may be missing.
        texts = ((it, look_up(source, it)) for source in sources for it in variables_of(name))
        for variable, text in texts:
            if text is not None:
                values[name], variables[name] = text, variable
                break
    # The message about an argument names the argument.
    variables |= {name: name for name in given}
    try:
        return form(**values | given)
    except ValidationError as error:
        raise SettingsError("; ".join(_complaint(item, variables) for item in error.errors())) from None


def _text_of(source: Mapping[str, str | None], variable: str) -> str | None:
    return source.get(variable)


def _secret_of(source: Mapping[str, str | None], variable: str) -> str | None:
    text, file = source.get(variable), source.get(variable + _FILE)
    if text or not file:
        # Empty, as compose files write where a variable is missing, counts as not set.
        return text or None
    try:
        return _content(file).rstrip("\r\n")
    except ValueError as error:
        raise SettingsError(f"{variable}{_FILE}: {error}{_shown(file)}") from None
    except OSError as error:
        raise SettingsError(f"{variable}{_FILE}: {error.strerror}{_shown(file)}") from None


def _content(file: str) -> str:
    with Path(file).open("rb") as opened:
        content = opened.read(_MAX_SECRET + 1)
    if len(content) > _MAX_SECRET:
        raise ValueError(f"this file has more than {_MAX_SECRET:,} bytes")
    # Taken as not set, it would let `serve` answer without a key, and disable publishers.
    if not content.strip():
        raise ValueError("this file is empty")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("this file is not text in UTF-8") from None


def _shown(file: str) -> str:
    """Return the path, or where nothing is there, and perhaps the secret itself was written, a hint."""
    folder = Path(file).parent
    is_path = "\0" not in file and (
        os.access(file, os.F_OK) or (folder.is_absolute() and folder != Path("/") and os.access(folder, os.F_OK))
    )
    return f": {printable(file)}" if is_path else "; it must be the path of a file that has the value"


def _complaint(item: Any, variables: Mapping[str, str]) -> str:
    name = str(item["loc"][0]).lower()
    # About a UUID it quotes the first character that does not belong there, perhaps a newline.
    message = printable(str(item["msg"]).removeprefix("Value error, "), LINE_LENGTH)
    return f"{variables.get(name) or variables_of(name)[0]}: {message}"
