"""The error tree: one root, and each class knows its HTTP status."""

import inspect

import pytest

from tunix_rt_common import errors
from tunix_rt_common.errors import InvalidInput, TunixError, UnusableData

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TunixError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_drawn_tree_with_its_status(kind):
    drawn = next(line for line in errors.__doc__.splitlines() if kind.__name__ in line.split())
    assert kind is TunixError or str(kind.status.value) in drawn


def test_only_what_may_work_later_is_retryable():
    assert [kind.__name__ for kind in CLASSES if kind.retryable] == ["Overloaded", "Unavailable"]


def test_wrong_input_names_its_field():
    assert UnusableData("no rows", field="dataset").field == "dataset"
    assert (str(InvalidInput("no")), InvalidInput("no").field) == ("no", None)
