import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_common.specs import OptimizerSpec, ScheduleSpec
from tunix_rt_trainer.engine.optim import learning_rate, optimizer


def rates(kind, *, warmup, total, final=0.1, peak=2.0):
    schedule = ScheduleSpec(kind=kind, warmup_steps=warmup, final_fraction=final)
    rate = learning_rate(OptimizerSpec(learning_rate=peak, schedule=schedule), total)
    return [float(rate(step)) for step in range(total)]


def test_constant_schedule_warms_up_and_stays():
    assert rates("constant", warmup=4, total=6) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_linear_schedule_falls_in_equal_parts_towards_the_final_fraction():
    assert rates("linear", warmup=2, total=6) == pytest.approx([1.0, 2.0, 2.0, 1.55, 1.1, 0.65])


def test_cosine_schedule_is_half_way_at_half_time():
    found = rates("cosine", warmup=0, total=8)
    assert found[0] == pytest.approx(2.0)
    assert found[4] == pytest.approx(1.1)
    assert found[7] == pytest.approx(0.2 + 1.8 * (1 + np.cos(7 * np.pi / 8)) / 2)


def test_warmup_longer_than_the_run_never_reaches_the_peak():
    assert rates("cosine", warmup=10, total=4) == pytest.approx([0.2, 0.4, 0.6, 0.8])


def numpy_adamw(spec, weights, gradients, total_steps):
    """Algorithm 2 of arXiv:1711.05101 with clipping by global norm before it."""
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    rate = learning_rate(spec, total_steps)
    for step, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
        scale = min(1.0, spec.clip_norm / norm)
        for name, leaf in gradient.items():
            first[name] = spec.beta1 * first[name] + (1 - spec.beta1) * scale * leaf
            second[name] = spec.beta2 * second[name] + (1 - spec.beta2) * (scale * leaf) ** 2
            mean = first[name] / (1 - spec.beta1**step)
            spread = np.sqrt(second[name] / (1 - spec.beta2**step))
            move = mean / (spread + spec.epsilon) + spec.weight_decay * weights[name]
            weights[name] = weights[name] - float(rate(step - 1)) * move
    return weights


def test_optimizer_steps_equal_a_numpy_adamw_that_decays_every_parameter():
    spec = OptimizerSpec(weight_decay=0.1, clip_norm=0.7, learning_rate=0.05, schedule=ScheduleSpec(warmup_steps=3))
    random = np.random.default_rng(1)
    weights = {"kernel": random.normal(size=(4, 3)), "bias": random.normal(size=3)}
    scales = (0.01, 0.1, 1.0, 10.0, 0.3, 100.0)
    gradients = [{name: scale * random.normal(size=leaf.shape) for name, leaf in weights.items()} for scale in scales]
    moving, transform = jax.tree.map(jnp.asarray, weights), optimizer(spec, len(gradients))
    moments = transform.init(moving)
    for gradient in gradients:
        updates, moments = transform.update(jax.tree.map(jnp.asarray, gradient), moments, moving)
        moving = jax.tree.map(jnp.add, moving, updates)
    expected = numpy_adamw(spec, weights, gradients, len(gradients))
    for name, leaf in expected.items():
        np.testing.assert_allclose(moving[name], leaf, rtol=2e-5)


def test_gradient_at_the_clip_norm_or_below_is_left_alone():
    spec = OptimizerSpec(clip_norm=5.0)
    transform = optimizer(spec, 10)
    weights = {"w": jnp.zeros(2)}
    exact, _ = transform.update({"w": jnp.array([3.0, 4.0])}, transform.init(weights), weights)
    longer, _ = transform.update({"w": jnp.array([300.0, 400.0])}, transform.init(weights), weights)
    np.testing.assert_allclose(exact["w"], longer["w"], rtol=1e-6)
