"""Validation errors in one line, without the value: it may be huge, or nobody's business."""

from pydantic import ValidationError


def first_finding(error: ValidationError) -> str:
    """Field and message of the first thing that is wrong."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"].removeprefix("Value error, "))))
