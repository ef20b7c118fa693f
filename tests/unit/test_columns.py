"""The columns of an event and what shares their order: the fields of `Event`, their bounds and defaults."""

from __future__ import annotations

from inspect import signature
from typing import get_type_hints

import pytest
from pydantic import ValidationError

from usage_worker.events.columns import COLUMNS, NAMES, Column, Form
from usage_worker.events.event import EVENT, VALUES, Event, values_of
from usage_worker.events.values import decimal_text
from usage_worker.ingest.event_array import EVENT as ARRAY
from usage_worker.publisher import UsagePublisher

PAIR = {"user_id": "11111111-1111-4111-8111-111111111111", "agent_id": "22222222-2222-4222-8222-222222222222"}
BOUNDED = [column for column in COLUMNS if column.most]


def test_every_form_of_an_event_has_the_same_fields_in_the_same_order() -> None:
    assert tuple(get_type_hints(Event)) == NAMES == tuple(ARRAY.names or ())[: len(NAMES)]


def test_unknown_fields_have_the_defaults_of_columns() -> None:
    defaults = {column.name: column.default for column in COLUMNS if column.name not in PAIR}
    assert EVENT.validate_python(dict.fromkeys(NAMES) | PAIR).items() >= defaults.items()


def test_track_has_the_defaults_of_columns() -> None:
    parameters = signature(UsagePublisher.track).parameters
    own = {column.name: column.default for column in COLUMNS if column.name not in (*PAIR, "type", "rating")}
    assert {name: parameters[name].default for name in own} == own


@pytest.mark.parametrize("column", BOUNDED, ids=lambda column: column.name)
def test_columns_have_the_bounds_of_fields(column: Column) -> None:
    def check(value: object) -> None:
        kind = {"type": "rating"} if column.name == "rating" else {}
        VALUES.validate_python(values_of({**PAIR, **kind, column.name: value}))

    in_words = {Form.TEXT: lambda most: "m" * most, Form.DECIMAL: decimal_text}.get(column.form, int)
    check(in_words(column.most))
    with pytest.raises(ValidationError):
        check(in_words(column.most + 1))
