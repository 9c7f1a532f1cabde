"""The quickstart's story: does training on the reasoning, and not on the answers alone, make a better model?

The same tiny model is trained twice on the same problems, first on answers, then on full traces. The first becomes
champion; the second has to beat it on problems that neither has seen, and takes the alias by the gate's verdict.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunix_rt.client import Client
from tunix_rt.commands.leaderboard import show_leaderboard
from tunix_rt.commands.watch import follow_live
from tunix_rt.console import byte_progress, note, print_json, print_text, waiting
from tunix_rt.exitcodes import ExitCode
from tunix_rt.server import find_server
from tunix_rt.synthetic import arithmetic_traces
from tunix_rt.types import LeaderboardRow, RunDetail
from tunix_rt_common.specs import (
    DatasetSpec,
    EvalSpec,
    OptimizerSpec,
    RunSpec,
    SamplingSpec,
    ScheduleSpec,
    SftSpec,
    Target,
)

NAME = "quickstart"
TRACES = 20_000
TEST_FRACTION = 0.015
VALIDATION_FRACTION = 0.01
STEPS = 450


@dataclass(frozen=True)
class Outcome:
    """How the story ended."""

    name: str
    answers: RunDetail
    traces: RunDetail
    rows: list[LeaderboardRow]

    @property
    def told(self) -> bool:
        """Whether the trace-trained model is champion now, by a passing verdict."""
        champion = next((row for row in self.rows if "champion" in row.aliases), None)
        return self.traces.decision == "GO" and champion is not None and champion.run_id == self.traces.run_id


def run_quickstart(seed: int, *, as_json: bool) -> ExitCode:
    """Tell the story; the exit code says whether it ended as it should."""
    with find_server() as server, Client(server.url) as client:
        outcome = _tell(client, seed)
    if as_json:
        print_json(_document(outcome))
    else:
        _conclude(outcome)
    return ExitCode.OK if outcome.told else ExitCode.JOB_FAILED


def _tell(client: Client, seed: int) -> Outcome:
    name = _unused_name(client)
    _chapter(f"1/5  {TRACES:,} synthetic reasoning traces of three-digit sums (seed {seed})")
    _import(client, seed)
    _chapter("2/5  an immutable dataset, split by prompt so that nothing leaks")
    _build(client, name, seed)
    _chapter("3/5  train on the answers alone, judge on held-out prompts")
    answers = _run(client, name, seed, "answer")
    _chapter("4/5  train the same model on the full traces, judge it against the champion")
    traces = _run(client, name, seed, "trace")
    rows = [row for row in client.evaluations.leaderboard() if row.model == name]
    return Outcome(name, answers, traces, rows)


def _unused_name(client: Client) -> str:
    """`quickstart`, or the first `quickstart-N` that no model has, so that the story can be told again."""
    taken = {model.name for model in client.models.list()}
    names = [NAME, *(f"{NAME}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _import(client: Client, seed: int) -> None:
    with byte_progress("importing", None) as progress:

        def lines() -> Iterator[bytes]:
            for record in arithmetic_traces(TRACES, seed):
                line = json.dumps(record).encode() + b"\n"
                progress(len(line))
                yield line

        outcome = client.traces.upload(lines(), trace_format="native", source=_source(seed))
    note(f"{outcome.accepted:,} new, {outcome.duplicates:,} known already, {outcome.rejected_count} rejected")


def _build(client: Client, name: str, seed: int) -> None:
    spec = DatasetSpec(
        name=name,
        filters={"source": _source(seed)},
        validation_fraction=VALIDATION_FRACTION,
        test_fraction=TEST_FRACTION,
        seed=seed,
    )
    with waiting("building"):
        dataset = client.datasets.wait(client.datasets.build(spec).dataset_id)
    if dataset.manifest is None:
        raise RuntimeError(f"the dataset was not built: {dataset.failure}")
    splits = ", ".join(f"{counts.rows:,} {split}" for split, counts in dataset.manifest.splits.items())
    note(f"{dataset.name}@{dataset.version}: {splits}")


def _run(client: Client, name: str, seed: int, target: Target) -> RunDetail:
    train = SftSpec(
        target=target,
        epochs=1000,
        max_steps=STEPS,
        batch_size=64,
        max_tokens=128,
        optimizer=OptimizerSpec(learning_rate=3e-3, schedule=ScheduleSpec(warmup_steps=30, final_fraction=0.05)),
        checkpoint_every=150,
        validate_every=75,
        seed=seed,
    )
    evaluate = EvalSpec(sampling=SamplingSpec(max_new_tokens=64))
    spec = RunSpec(dataset=name, base_model="tiny", train=train, evaluate=evaluate, model_name=name)
    return follow_live(client, client.runs.create(spec).run_id)


def _source(seed: int) -> str:
    return f"quickstart-{seed}"


def _chapter(title: str) -> None:
    note(f"\n== {title}")


def _conclude(outcome: Outcome) -> None:
    print_text("\n== 5/5  what came of it", style="bold")
    show_leaderboard(outcome.rows)
    print_text(f"\nverdict: {outcome.traces.decision}", style="bold green" if outcome.told else "bold red")
    print_text(outcome.traces.reason or outcome.traces.failure or "no verdict was reached")
    print_text("\nWhat to type next:", style="bold")
    for command, purpose in _next_steps(outcome):
        print_text(f"  {command:<52} {purpose}")


def _next_steps(outcome: Outcome) -> list[tuple[str, str]]:
    runner = ".venv/bin/tunix-rt"
    return [
        ("make up", "look at all of this in the browser"),
        (f"{runner} models pull {outcome.name}@champion my-model", "take the model with you, hashes checked"),
        (f"{runner} evaluations show {outcome.traces.evaluation_id}", "scores by slice, and the verdict in full"),
        (f"{runner} traces import FILE.jsonl", "start with traces of your own"),
    ]


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "model": outcome.name,
        "told": outcome.told,
        "decision": outcome.traces.decision,
        "reason": outcome.traces.reason,
        "runs": {"answers": outcome.answers, "traces": outcome.traces},
        "leaderboard": outcome.rows,
    }
