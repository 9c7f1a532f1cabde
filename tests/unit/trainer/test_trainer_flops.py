import jax
import jax.numpy as jnp
import pytest

from tunix_rt_trainer.engine.flops import flops_of

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
ONE = 2 * 3 * 5 * 7


def repeated(a, b):
    return jax.lax.scan(lambda total, _: (total + a @ b, None), jnp.zeros((3, 7)), length=4)[0]


def chosen(a, b):
    return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b))


def summed(a, b):
    return jnp.sum(a @ b)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda a, b: a @ b, 1),
        (lambda a, b: jnp.sin(a @ b) * 2, 1),
        (jax.jit(lambda a, b: a @ b), 1),
        (jax.checkpoint(lambda a, b: a @ b), 1),
        (repeated, 4),
        (jax.jit(repeated), 4),
        (chosen, 2),
        (jax.grad(summed, argnums=(0, 1)), 3),
        (jax.grad(summed), 2),
        (jax.grad(lambda a, b: jnp.sum(jnp.sin(jax.checkpoint(jnp.matmul)(a, b)))), 2),
        (jax.grad(lambda a, b: jax.checkpoint(lambda: jnp.sum(jnp.sin(a @ b)))()), 3),
    ],
)
def test_products_are_counted_as_often_as_they_are_computed(function, products):
    assert flops_of(jax.jit(function).trace(A, B)) == products * ONE


def test_batched_product_counts_every_member_of_the_batch():
    left, right = jax.ShapeDtypeStruct((4, 2, 3), jnp.float32), jax.ShapeDtypeStruct((4, 3, 6), jnp.float32)
    assert flops_of(jax.jit(jnp.matmul).trace(left, right)) == 2 * 4 * 2 * 3 * 6
