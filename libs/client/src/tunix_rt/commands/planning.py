"""`tunix-rt runs plan`: waiting for a plan, and showing it."""

from collections.abc import Iterable

from tunix_rt.client import Client
from tunix_rt.console import note, print_error, print_fields, print_json, print_table, waiting
from tunix_rt.exitcodes import ExitCode
from tunix_rt.types import Plan, PlannedRun, SplitPlan
from tunix_rt_common.specs import PlanSpec

KIB, MIB, GIB = 1024, 1024**2, 1024**3
NAMED_ROWS = 10


def plan_run(client: Client, spec: PlanSpec, *, as_json: bool) -> ExitCode:
    """Ask for a plan, wait for it, show it; whether the run fits is the exit code."""
    with waiting("planning") as tell:
        planned = client.plans.wait(client.plans.create(spec).plan_id, on_progress=tell)
    if as_json:
        print_json(planned)
    elif planned.plan:
        _show(planned.plan)
    return _told(planned)


def _told(planned: PlannedRun) -> ExitCode:
    if planned.plan is None:
        print_error(f"the run could not be planned: {planned.failure or planned.state}")
        return ExitCode.JOB_FAILED
    if planned.plan.refusal:
        print_error(planned.plan.refusal.message)
        return ExitCode.JOB_FAILED
    return ExitCode.OK


def _show(plan: Plan) -> None:
    print_table(("memory of a device", "size", "bytes"), _memory_rows(plan))
    splits = {"train": plan.train} | ({"validation": plan.validation} if plan.validation else {})
    print_table(
        ("split", "rows", "dropped", "longest", "limit", "sequences", "tokens", "trained", "filled"),
        [_split_row(name, split) for name, split in splits.items()],
    )
    print_fields(
        [
            ("parameters", f"{plan.parameters:,}, of which {plan.trained_parameters:,} are trained"),
            ("steps", f"{plan.steps:,}"),
            ("tokens", f"{plan.tokens:,}, of which {plan.trained_tokens:,} are trained"),
            ("checkpoints", f"{plan.checkpoints:,} of {_size(plan.checkpoint_bytes)}"),
            ("model", _size(plan.model_bytes)),
            ("time", _time(plan)),
        ]
    )
    for name, split in splits.items():
        if split.dropped_long:
            note(f"{name}: {_dropped(split)}")


def _memory_rows(plan: Plan) -> Iterable[tuple[str, str, int]]:
    memory = plan.memory
    parts = [
        ("weights", memory.weights_bytes),
        ("optimizer moments", memory.moments_bytes),
        ("gradients", memory.gradients_bytes),
        ("batch", memory.batch_bytes),
        ("activations", memory.activations_bytes),
        ("copy for a checkpoint", memory.checkpoint_copy_bytes),
        ("before the first step", memory.loading_bytes),
        ("needed", plan.needed_bytes),
        (f"there is ({_devices(plan)})", plan.available_bytes),
    ]
    return [(name, _size(size), size) for name, size in parts]


def _devices(plan: Plan) -> str:
    return plan.device if plan.devices == 1 else f"each of {plan.devices} {plan.device}"


def _split_row(name: str, split: SplitPlan) -> tuple[object, ...]:
    return (
        name,
        split.rows,
        split.dropped,
        split.longest_tokens,
        split.limit_tokens,
        split.sequences,
        split.tokens,
        split.trained_tokens,
        f"{split.fill:.0%}",
    )


def _dropped(split: SplitPlan) -> str:
    more = " …" if split.dropped_long > NAMED_ROWS else ""
    named = ", ".join(map(str, split.dropped_long_rows[:NAMED_ROWS])) + more
    return f"{split.dropped_long} rows are longer than {split.limit_tokens} tokens and would be dropped: {named}"


def _time(plan: Plan) -> str:
    if plan.seconds is None or plan.flops_per_s is None:
        return f"not known: nobody told how fast {plan.device} is; {plan.flops:.3g} FLOP"
    speed = f"{plan.utilisation:.0%} of {plan.flops_per_s / 1e12:.3g} TFLOP/s assumed"
    return f"about {_duration(plan.seconds)} of training ({plan.flops:.3g} FLOP, {speed})"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: int) -> str:
    for length, unit in ((GIB, "GiB"), (MIB, "MiB")):
        if size >= length:
            return f"{size / length:.2f} {unit}"
    return f"{size / KIB:.2f} KiB"
