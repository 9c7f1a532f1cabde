"""What a run will need, take and make, from its spec, its model's shapes and its encoded rows: nothing is trained."""

import math
from collections import Counter
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from tunix_rt_common.plans import NAMED_ROWS, Memory, Plan, Refusal, Remedy, SplitPlan
from tunix_rt_common.specs import DpoSpec
from tunix_rt_trainer.engine.batches import evaluation_batches, training_batch
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.flops import flops_of
from tunix_rt_trainer.engine.footprint import (
    batch_shapes,
    longest_padded,
    params_shapes,
    size_bytes,
    state_shapes,
    step_memory,
)
from tunix_rt_trainer.engine.remedies import Search
from tunix_rt_trainer.engine.state import trainable
from tunix_rt_trainer.engine.step import traced_loss, traced_step
from tunix_rt_trainer.engine.subject import Device, Subject

UTILISATION = 0.4
"""The share of a device's matrix products per second that training is assumed to reach."""
SAMPLED_STEPS = 64
"""Steps whose padded lengths stand for those of all."""
MIB, GIB = 1024**2, 1024**3
Tell = Callable[[str], None]


def make_plan(subject: Subject, device: Device, flops_per_s: float | None, tell: Tell) -> Plan:
    """The run in numbers, and a refusal where it does not fit the device; `tell` hears what is being worked out.

    `flops_per_s` are the matrix products of one device, None where nobody knows. Memory is what the compiler says for
    the devices of this process, which may be others, but as many.

    Raises:
        InvalidInput: the spec's mesh does not fit the devices or the batch.
    """
    spec, train, validation = subject.spec, subject.data.train, subject.data.validation
    shapes, params = state_shapes(subject), params_shapes(subject.config)
    longest = longest_padded(subject)
    tell(f"compiling a step of batch size {spec.batch_size} and {longest} tokens")
    memory = step_memory(subject, device)
    flops = _training_flops(subject) + _scoring_flops(subject)
    epochs = subject.steps * spec.batch_size / train.examples
    return Plan(
        device=device.name,
        devices=device.count,
        parameters=_count(params),
        trained_parameters=_count(trainable(shapes)),
        memory=memory,
        needed_bytes=memory.needed_bytes,
        available_bytes=device.memory_bytes,
        checkpoint_bytes=size_bytes((trainable(shapes), shapes.optimizer)),
        checkpoints=math.ceil(subject.steps / spec.checkpoint_every),
        model_bytes=size_bytes(params),
        train=_split_plan(subject, train),
        validation=_split_plan(subject, validation) if validation else None,
        steps=subject.steps,
        longest_padded_tokens=longest,
        tokens=round(train.report.tokens * epochs),
        trained_tokens=round(train.report.trained_tokens * epochs),
        flops=flops,
        flops_per_s=flops_per_s,
        utilisation=UTILISATION,
        seconds=flops / (flops_per_s * device.count * UTILISATION) if flops_per_s else None,
        refusal=refusal_of(subject, memory, device, tell),
    )


def refusal_of(subject: Subject, memory: Memory, device: Device, tell: Tell) -> Refusal | None:
    """Why the run does not fit the device, and what would; None where it fits."""
    if memory.needed_bytes <= device.memory_bytes:
        return None
    each = device.name if device.count == 1 else f"each of {device.count} {device.name}"
    fault = f"the run needs {_gib(memory.needed_bytes)}, and {each} has {_gib(device.memory_bytes)} for it"
    tell(f"{fault}: looking for settings that fit")
    search = Search(subject, memory, device, trying=lambda settings: tell(f"trying {settings}"))
    remedy = search.remedy()
    return Refusal(message=f"{fault}: {_advice(remedy, memory)}", remedy=remedy)


def _advice(remedy: Remedy | None, memory: Memory) -> str:
    if remedy is None:
        return (
            "neither more accumulation nor adapters nor shorter sequences make it fit. Choose a smaller base model, or "
            f"a device with at least {_gib(memory.needed_bytes)}"
        )
    settings = " and ".join(f"{name} to {value}" for name, value in remedy.settings.items())
    cost = f" and drops {remedy.dropped} rows" if remedy.dropped else ""
    return f"set {settings}, which needs {_gib(remedy.needed_bytes)}{cost}"


def _gib(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / MIB:.3g} MiB"


def _count(shapes: PyTree[jax.ShapeDtypeStruct]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _training_flops(subject: Subject) -> float:
    """Those of all steps, from the padded lengths of some that are spread evenly over the run."""
    rows, spec, steps = subject.rows, subject.spec, subject.steps
    sampled = np.linspace(0, steps - 1, min(steps, SAMPLED_STEPS), dtype=int)
    lengths = Counter(training_batch(rows, spec, int(step)).token_ids.shape[-1] for step in sampled)
    state = state_shapes(subject)

    def flops(tokens: int) -> int:
        return flops_of(traced_step(subject.config, spec, steps, state, batch_shapes(subject, tokens)))

    return sum(flops(tokens) * count for tokens, count in lengths.items()) * steps / len(sampled)


def _scoring_flops(subject: Subject) -> float:
    """Those of every validation: before the first step, each `validate_every`, and after the last one.

    Where the method compares with a reference, that scores every row once as well.
    """
    spec, (train, validation) = subject.spec, (subject.data.train, subject.data.validation)
    passes = [(validation, 1 + math.ceil(subject.steps / spec.validate_every))]
    if isinstance(spec, DpoSpec):
        passes += [(train, 1), (validation, 1)]
    return float(sum(times * _pass_flops(subject, rows) for rows, times in passes if rows))


def _pass_flops(subject: Subject, rows: EncodedRows) -> int:
    """Those of the loss over all rows."""
    size = subject.spec.batch_size // subject.spec.accumulation
    micro = subject.changed(subject.spec.model_copy(update={"batch_size": size, "accumulation": 1}))
    lengths = Counter(batch.token_ids.shape[-1] for batch in evaluation_batches(rows, size))
    state = state_shapes(subject)

    def flops(tokens: int) -> int:
        batch = jax.eval_shape(lambda batch: jax.tree.map(lambda leaf: leaf[0], batch), batch_shapes(micro, tokens))
        return flops_of(traced_loss(subject.config, subject.spec, state, batch))

    return sum(flops(tokens) * count for tokens, count in lengths.items())


def _split_plan(subject: Subject, rows: EncodedRows) -> SplitPlan:
    report = rows.report
    return SplitPlan(
        rows=report.rows,
        kept=report.kept,
        dropped=report.dropped,
        dropped_long=len(report.dropped_long),
        dropped_long_rows=report.dropped_long[:NAMED_ROWS],
        limit_tokens=min(subject.spec.max_tokens, subject.config.max_positions),
        longest_tokens=report.longest,
        sequences=len(rows.packs),
        tokens=report.tokens,
        trained_tokens=report.trained_tokens,
        fill=report.fill,
    )
