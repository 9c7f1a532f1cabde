"""Synthetic traces: written arithmetic, column by column, for trying the whole pipeline without anyone's data."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from tunix_rt_common.errors import InvalidInput

Operation = Literal["+", "-"]
Column = tuple[str, int, bool]

MAX_DIGITS = 9


def arithmetic_traces(
    count: int, seed: int, digits: int = 3, operations: Sequence[Operation] = ("+",)
) -> Iterator[dict[str, Any]]:
    """Yield `count` native trace records of sums (or differences, never negative) of numbers with `digits` digits.

    The steps are the columns from units upward, each digit + digit + carry (or digit - digit - borrow), then the carry
    that is left over if there is one, then the result's digits in writing order: `347+586=` has the steps `7+6+0=13`,
    `4+8+1=13`, `3+5+1=9`, `933`. The operations take turns. Equal arguments give equal records. No prompt comes twice
    before all of its operation have come.

    Raises:
        InvalidInput: a negative count, digits outside 1..9, or operations other than + and -, each once.
    """
    if count < 0:
        raise InvalidInput(f"count is {count}: ask for 0 traces or more", field="count")
    if not 1 <= digits <= MAX_DIGITS:
        raise InvalidInput(f"digits is {digits}: choose 1 to {MAX_DIGITS}", field="digits")
    if sorted(operations) not in (["+"], ["-"], ["+", "-"]):
        raise InvalidInput("operations is not a choice of + and -: name one, or both once", field="operations")
    return islice(_records(count, seed, digits, tuple(operations)), count)


def _records(count: int, seed: int, digits: int, operations: tuple[Operation, ...]) -> Iterator[dict[str, Any]]:
    generator = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    pairs = [_pairs(generator, operation, digits, math.ceil(count / len(operations))) for operation in operations]
    while True:
        for operation, numbers in zip(operations, pairs, strict=True):
            record = _record(operation, *next(numbers), digits)
            record["meta"]["seed"] = seed
            yield record


def _pairs(generator: random.Random, operation: Operation, digits: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield operands in random order, all different for as long as the space of pairs lasts, then anew."""
    lowest = 10 ** (digits - 1) if digits > 1 else 0
    size = 10**digits - lowest
    space = size * size if operation == "+" else size * (size + 1) // 2
    while True:
        for index in generator.sample(range(space), min(wanted, space)):
            left, right = divmod(index, size) if operation == "+" else _triangular(index)
            yield lowest + left, lowest + right


def _triangular(index: int) -> tuple[int, int]:
    """Return the index-th of the pairs (0, 0), (1, 0), (1, 1), (2, 0), … whose left is not below its right."""
    left = (math.isqrt(8 * index + 1) - 1) // 2
    return left, index - left * (left + 1) // 2


def _record(operation: Operation, left: int, right: int, digits: int) -> dict[str, Any]:
    columns = _columns(operation, left, right, digits)
    carries = sum(carried for _, _, carried in columns)
    steps = [("column", text) for text, _, _ in columns]
    written = "".join(str(digit) for _, digit, _ in reversed(columns))
    if operation == "+" and columns[-1][2]:
        steps.append(("carry", "0+0+1=1"))
        written = "1" + written
    steps.append(("assemble", written))
    return {
        "trace_version": "1.0",
        "prompt": f"{left}{operation}{right}=",
        "steps": [{"i": i, "type": kind, "content": content} for i, (kind, content) in enumerate(steps)],
        "final_answer": str(int(written)),
        "meta": {
            "source": "synthetic-arithmetic",
            "operation": operation,
            "digits": digits,
            "category": _category(operation, carries),
            "difficulty": ("easy", "medium", "hard")[min(carries, 2)],
        },
    }


def _columns(operation: Operation, left: int, right: int, digits: int) -> list[Column]:
    """Return text, digit and whether there is a carry (or borrow) for each column, units first."""
    columns: list[Column] = []
    carry = False
    for place in range(digits):
        top, bottom = left // 10**place % 10, right // 10**place % 10
        column = _added(top, bottom, carry) if operation == "+" else _subtracted(top, bottom, carry)
        carry = column[2]
        columns.append(column)
    return columns


def _added(top: int, bottom: int, carry: int) -> Column:
    total = top + bottom + carry
    return f"{top}+{bottom}+{int(carry)}={total}", total % 10, total > 9


def _subtracted(top: int, bottom: int, borrowed: int) -> Column:
    borrows = top < bottom + borrowed
    digit = top + 10 * borrows - bottom - borrowed
    return f"{top + 10 * borrows}-{bottom}-{int(borrowed)}={digit}", digit, borrows


def _category(operation: Operation, carries: int) -> str:
    one, many = ("carry", "carries") if operation == "+" else ("borrow", "borrows")
    return f"{carries} {one if carries == 1 else many}"
