"""docs/reference/settings.md, from `Settings`."""

from __future__ import annotations

from tools.reference.annotations import bounds, meanings, type_words
from tools.reference.markdown import code, table
from usage_worker.environment import variables_of
from usage_worker.settings import PublisherSettings, Settings

_INTRODUCTION = """\
# Settings

Environment variables, read once when a process starts, and from `.env` in the current folder where the environment
does not set them. A publisher in an application reads only those above `DATABASE_URL`, and never `.env`. Where a
setting has two variables, the first one that is set counts. A setting that is wrong stops the process with one line
that names it and does not quote its value. Durations are in seconds unless the name says days.

A secret may stand in a file, as containers and systemd give it: `DATABASE_URL_FILE` names the file whose content is the
value of `DATABASE_URL`, and so do `USAGE_REDIS_URL_FILE`, `REDIS_URL_FILE`, `USAGE_BROKER_URL_FILE`,
`USAGE_REPORT_DATABASE_URL_FILE`, `USAGE_API_KEYS_FILE`, `USAGE_FORGET_KEY_FILE` and `USAGE_EMBEDDER_KEY_FILE`. An empty
secret or path counts as not set. If both forms are set, in the environment or in `.env`, the value counts; a file whose
content does not count is not read. A line break at its end is ignored.
A file that is missing, unreadable, empty or larger than 1 MiB stops the process with one line that names the variable,
and the file if there is one: the secret itself may have been written in place of its path.

"""


def page() -> str:
    """Return the page."""
    texts = meanings(PublisherSettings) | meanings(Settings)
    rows = [
        (
            " or ".join(map(code, variables_of(name))),
            type_words(field.annotation),
            code(field.default),
            bounds(field),
            texts[name],
        )
        for name, field in Settings.model_fields.items()
    ]
    return _INTRODUCTION + table(("variable", "type", "default", "bounds", "meaning"), rows)
