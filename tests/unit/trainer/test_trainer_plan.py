from dataclasses import replace

import jax
import pytest

from tunix_rt_common.plans import NAMED_ROWS
from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.batches import training_batch
from tunix_rt_trainer.engine.footprint import resident_memory, step_memory
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.plan import make_plan
from tunix_rt_trainer.engine.remedies import row_lengths
from tunix_rt_trainer.engine.step import compiled_step, train_step
from tunix_rt_trainer.engine.subject import Device, Subject

AMPLE = 2**40
LARGE = ModelConfig(
    vocab_size=128_256,
    hidden_size=8192,
    intermediate_size=28_672,
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
    head_dim=128,
    max_positions=131_072,
    compute_dtype="bfloat16",
)
"""The shape of Llama 3 70B."""


@pytest.fixture
def planned(small):
    """A plan of the small run, with changes to its spec, for a device with so much memory."""

    def plan(available=AMPLE, *, spec=small.SPEC, rows=None, validation=None, is_host=False, speed=1e9, **changes):
        spec = spec.model_copy(update=changes)
        data = TrainingData(rows or small.make_rows(12), validation)
        subject = Subject(small.CONFIG.model_copy(update={"remat": spec.remat}), spec, data)
        return make_plan(subject, Device("device", available, is_host=is_host), speed, lambda _: None)

    return plan


def size_bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("kind", ["full", "qlora", "dpo-lora", "distill"])
def test_parts_of_memory_are_those_of_the_real_arrays_and_of_the_compiled_step(small, kind):
    spec, rows = small.SPECS[kind], small.data_for(small.SPECS[kind], 12)
    subject = Subject(small.CONFIG, spec, TrainingData(rows), small.TEACHER if kind == "distill" else None)
    memory = step_memory(subject, Device("device", AMPLE, is_host=False))
    state, batch = small.fresh_state(spec), training_batch(rows, spec, 0)
    assert memory.weights_bytes == size_bytes((state.params, state.lora, state.teacher))
    assert memory.moments_bytes == size_bytes(state.optimizer)
    assert memory.gradients_bytes == size_bytes(state.lora or state.params)
    assert memory.batch_bytes == size_bytes(batch)
    analysis = compiled_step(small.CONFIG, spec, small.STEPS, state, batch).memory_analysis()
    unshared = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    assert memory.needed_bytes == analysis.argument_size_in_bytes + unshared + analysis.temp_size_in_bytes
    assert memory.activations_bytes > 0


def test_base_in_4_bits_is_made_of_one_float32_leaf_after_the_other(small):
    device, data = Device("device", AMPLE, is_host=False), TrainingData(small.make_rows(4))
    kept, packed = (
        resident_memory(Subject(small.CONFIG, small.SPECS[kind], data), device) for kind in ("lora", "qlora")
    )
    largest = 4 * small.CONFIG.num_layers * small.CONFIG.hidden_size * small.CONFIG.intermediate_size
    assert packed.weights_bytes < kept.weights_bytes == kept.loading_bytes
    assert packed.loading_bytes == packed.weights_bytes + 2 * largest


def test_only_adapters_are_trained_and_kept_in_checkpoints(small, planned):
    full, lora = planned(), planned(spec=small.SPECS["lora"])
    adapters = small.fresh_state(small.SPECS["lora"]).lora
    assert (full.parameters, full.trained_parameters) == (lora.parameters, full.parameters)
    assert lora.trained_parameters == sum(leaf.size for leaf in jax.tree.leaves(adapters))
    assert full.checkpoint_bytes == full.memory.weights_bytes + full.memory.moments_bytes
    assert lora.checkpoint_bytes == size_bytes(adapters) + lora.memory.moments_bytes
    assert full.model_bytes == lora.model_bytes == 4 * full.parameters


def test_checkpoint_is_copied_within_the_memory_of_a_host(planned):
    apart, together = planned(), planned(is_host=True)
    assert apart.memory.checkpoint_copy_bytes == 0
    assert together.memory.checkpoint_copy_bytes == together.checkpoint_bytes
    assert together.needed_bytes == apart.needed_bytes + together.checkpoint_bytes


def test_model_that_no_machine_holds_is_measured_without_an_array_of_it(small):
    before = size_bytes(jax.live_arrays())
    spec = small.SPEC.model_copy(update={"lora": LoraSpec()})
    memory = step_memory(Subject(LARGE, spec, TrainingData(small.make_rows(4))), Device("device", 0, is_host=False))
    adapters = 4 * 207_093_760 / 2
    assert memory.weights_bytes == 4 * 70_553_706_496 + adapters
    assert size_bytes(jax.live_arrays()) - before < 2**20


def test_steps_tokens_and_checkpoints_are_those_of_the_whole_run(small, planned):
    rows = small.make_rows(12)
    plan = planned(rows=rows, epochs=2.0, max_steps=None, checkpoint_every=4)
    assert (plan.steps, plan.checkpoints) == (6, 2)
    assert plan.tokens == 2 * rows.report.tokens
    assert plan.trained_tokens == 2 * rows.report.trained_tokens
    assert (plan.train.rows, plan.train.sequences, plan.train.longest_tokens) == (12, 12, max(map(len, rows.token_ids)))


def test_time_follows_from_the_arithmetic_and_is_not_known_where_the_speed_is_not(planned):
    plan = planned(speed=1e9)
    assert plan.seconds == pytest.approx(plan.flops / (1e9 * plan.utilisation))
    assert planned(speed=None).seconds is None


def test_arithmetic_is_that_of_weights_and_tokens(small, planned):
    """2 FLOP for a weight and token forward, 4 backward, and 2 where a layer is computed again.

    All of it is, but for its last product, whose result nobody needs; attention has two products of its own.
    """
    config, rows = small.CONFIG, small.make_rows(8, shortest=32, longest=32)
    layers = small.fresh_state(small.SPEC).params["layers"]
    kernels = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(layers) if path[-1].key == "kernel")
    last = layers["mlp"]["down_proj"]["kernel"].size
    head = config.vocab_size * config.hidden_size
    attention = 8 * 2 * config.num_layers * config.num_heads * config.head_dim * 32
    tokens = 5 * small.SPEC.batch_size * 32
    assert planned(rows=rows, max_steps=5).flops == tokens * (8 * kernels - 2 * last + 6 * head + attention)


def test_validation_takes_its_time_too(small, planned):
    without, with_it = planned(max_steps=14), planned(max_steps=14, validation=small.make_rows(4))
    often = planned(max_steps=14, validation=small.make_rows(4), validate_every=1)
    assert with_it.flops > without.flops
    assert often.flops - without.flops == pytest.approx(5 * (with_it.flops - without.flops))


def remedy_for(planned, available, **changes):
    plan = planned(available, **changes)
    assert plan.refusal, "it fits"
    return plan.refusal.remedy


def test_run_that_fits_is_not_refused_and_one_byte_less_is(planned):
    needed = planned().needed_bytes
    assert planned(needed).refusal is None
    refusal = planned(needed - 1).refusal
    assert refusal.remedy.needed_bytes < needed
    assert "MiB, and device has" in refusal.message
    assert "set train.accumulation to 4" in refusal.message


def test_least_accumulation_that_fits_is_found(small, planned):
    rows = small.make_rows(40, longest=60)
    needed = [planned(rows=rows, batch_size=8, accumulation=parts).needed_bytes for parts in (1, 2, 4, 8)]
    assert sorted(needed, reverse=True) == needed
    remedy = remedy_for(planned, needed[1], rows=rows, batch_size=8, accumulation=1)
    assert (remedy.settings, remedy.needed_bytes) == ({"train.accumulation": 2}, needed[1])


def test_computing_again_comes_first(small, planned):
    rows = small.make_rows(40, longest=60)
    changes = {"rows": rows, "batch_size": 8, "accumulation": 1}
    remedy = remedy_for(planned, planned(**changes).needed_bytes, **changes, remat="none")
    assert remedy.settings == {"train.remat": "full"}


def test_adapters_are_proposed_where_no_micro_batch_is_small_enough(small, planned):
    needed = planned(accumulation=4, lora=LoraSpec()).needed_bytes
    assert needed < planned(accumulation=4).needed_bytes
    assert remedy_for(planned, needed).settings["train.lora.rank"] == LoraSpec().rank


def test_shorter_sequences_come_last_and_say_what_they_drop(small, planned):
    rows = small.make_rows(40, longest=60)
    changes = {"rows": rows, "spec": small.SPECS["qlora"]}
    available = planned(**changes, max_tokens=32, accumulation=4).needed_bytes
    refusal = planned(available, **changes).refusal
    assert refusal.remedy.settings == {"train.accumulation": 4, "train.max_tokens": 32}
    assert refusal.remedy.dropped == sum(len(token_ids) > 32 for token_ids in rows.token_ids) > 0
    assert f"drops {refusal.remedy.dropped} rows" in refusal.message


def test_pair_is_dropped_with_its_longer_side(small):
    pairs = small.make_pairs(20)
    longest = [max(map(len, pairs.token_ids[start : start + 2])) for start in range(0, 40, 2)]
    assert row_lengths(pairs) == longest
    assert row_lengths(small.make_rows(5)) == list(map(len, small.make_rows(5).token_ids))


def test_where_nothing_helps_a_larger_device_is_named(planned):
    refusal = planned(1000).refusal
    assert refusal.remedy is None
    assert "choose a smaller base model" in refusal.message.lower()


def test_first_dropped_rows_are_named_and_all_are_counted(small, planned):
    rows = small.make_rows(4)
    report = replace(rows.report, rows=304, dropped_long=tuple(range(1, 301)))
    split = planned(rows=replace(rows, report=report)).train
    assert (split.dropped, split.dropped_long, split.dropped_long_rows) == (300, 300, tuple(range(1, NAMED_ROWS + 1)))


def test_reference_is_an_arithmetic_of_its_own(small, planned):
    """Direct preference optimization scores every row once before it trains; odds ratios need no reference."""
    rows = small.make_pairs(4)
    dpo, orpo = (planned(spec=small.SPECS[kind], rows=rows, max_steps=2).flops for kind in ("dpo", "orpo"))
    assert orpo < dpo < 2 * orpo


def test_largest_step_is_compiled_once_for_looking_and_training(small, caplog):
    optimizer = small.SPEC.optimizer.model_copy(update={"epsilon": 3e-8})
    rows, spec = small.make_rows(8, shortest=20, longest=20), small.SPEC.model_copy(update={"optimizer": optimizer})
    state = small.fresh_state(spec)
    with jax.log_compiles():
        step_memory(Subject(small.CONFIG, spec, TrainingData(rows)), Device("device", AMPLE, is_host=True))
        train_step(small.CONFIG, spec, small.STEPS, state, training_batch(rows, spec, 0))
    assert caplog.text.count("Finished XLA compilation of jit(_train_step)") == 1
