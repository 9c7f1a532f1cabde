import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_modeling.drawing import GREEDY, Draw, draw_tokens

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.3, 0.15])
ROWS = 20_000


def frequencies(draw: Draw) -> np.ndarray:
    scores = jnp.broadcast_to(jnp.log(PROBABILITIES), (ROWS, 5))
    drawn = draw_tokens(draw, jax.random.split(jax.random.key(0), ROWS), scores)
    return np.bincount(np.asarray(drawn), minlength=5) / ROWS


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (Draw(1.0, 0, 1.0), PROBABILITIES),
        (Draw(0.5, 0, 1.0), PROBABILITIES**2),
        (Draw(1.0, 3, 1.0), [0, 0.4, 0, 0.3, 0.15]),
        (Draw(1.0, 99, 1.0), PROBABILITIES),
        (Draw(1.0, 1, 1.0), [0, 1, 0, 0, 0]),
        (Draw(1.0, 0, 0.6), [0, 0.4, 0, 0.3, 0]),
        (Draw(1.0, 0, 0.75), [0, 0.4, 0, 0.3, 0.15]),
        (Draw(1.0, 0, 1e-6), [0, 1, 0, 0, 0]),
        (Draw(1.0, 3, 0.8), [0, 0.4, 0, 0.3, 0]),
    ],
)
def test_draws_follow_the_filtered_distribution(draw: Draw, expected: list[float]) -> None:
    expected = np.array(expected) / np.sum(expected)
    found = frequencies(draw)
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert not found[expected == 0].any()


def test_greedy_takes_the_largest() -> None:
    assert frequencies(GREEDY)[1] == 1


def test_top_k_keeps_exactly_k_of_equal_tokens() -> None:
    drawn = draw_tokens(Draw(1.0, 2, 1.0), jax.random.split(jax.random.key(0), 200), jnp.zeros((200, 6)))
    assert len(set(np.asarray(drawn).tolist())) == 2
