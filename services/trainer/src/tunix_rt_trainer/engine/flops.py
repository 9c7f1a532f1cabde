"""How much arithmetic a program does, counted on the program itself: what is recomputed counts each time."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def flops_of(traced: jax.stages.Traced) -> int:
    """Floating-point operations of the matrix products in a traced function.

    A product of [m, k] and [k, n] takes 2 m k n. Anything elementwise is left out, as is usual (Kaplan et al. 2020,
    arXiv:2001.08361, appendix B). Of branches the dearest is counted; of a loop without a known end, one round.
    """
    return _count(traced.jaxpr.jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left: Any = equation.invars[0].aval
        out: Any = equation.outvars[0].aval
        return int(2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted))
    counts = [_count(inner) for inner in _inner(equation.params)]
    if name == "cond":
        return max(counts, default=0)
    return sum(counts) * (equation.params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an equation calls."""
    for value in params.values():
        for member in value if isinstance(value, tuple | list) else (value,):
            if isinstance(member, ClosedJaxpr):
                yield member.jaxpr
            elif isinstance(member, Jaxpr):
                yield member
