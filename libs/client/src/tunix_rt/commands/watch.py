"""Watching a run: a live bar and the run's story, until it has ended."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from tunix_rt.client import Client
from tunix_rt.console import err, note, print_error, print_fields, print_json, printable
from tunix_rt.exitcodes import ExitCode
from tunix_rt.resources.runs import RunUpdate
from tunix_rt.types import Event, RunDetail

EXIT_CODES: Mapping[str, ExitCode] = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "quarantined": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.CANCELLED,
}
EVENT_STYLES: Mapping[str, str] = {"succeeded": "green", "failed": "red", "quarantined": "red", "cancelled": "yellow"}


def watch_to_end(client: Client, run_id: str, *, own_world: bool, as_json: bool) -> ExitCode:
    """Show a run until it has ended, then its outcome; the exit code that it stands for.

    Ctrl-C stops the watching; the run goes on, unless its workers end with this process.
    """
    try:
        run = follow_live(client, run_id)
    except KeyboardInterrupt:
        note(_parting(run_id, own_world=own_world))
        return ExitCode.INTERRUPTED
    print_json(run) if as_json else show_outcome(run)
    if run.state in {"failed", "quarantined"}:
        print_error(f"run {run.run_id} {run.state} in stage {run.stage}: {run.failure or 'see `tunix-rt runs logs`'}")
    return EXIT_CODES[run.state]


def show_outcome(run: RunDetail) -> None:
    """What came of a run."""
    version = f"{run.model_name}@{run.model_version}" if run.model_version is not None else None
    print_fields(
        [
            ("run", run.run_id),
            ("state", run.state),
            (
                "progress",
                None if run.finished else f"{run.stage} {run.jobs[-1].step}/{run.jobs[-1].total_steps or '?'}",
            ),
            ("verdict", run.decision),
            ("reason", run.reason),
            ("evaluation", run.evaluation_id),
            ("model version", version),
        ]
    )


def follow_live(client: Client, run_id: str) -> RunDetail:
    """Show bar and story until the run has ended; what it is then."""
    with _display() as display:
        for update in client.runs.follow(run_id):
            display.show(update)
    return update.run


def _parting(run_id: str, *, own_world: bool) -> str:
    if own_world:
        return (
            f"stopped; run {run_id} keeps its last checkpoint and continues when a server runs here again: "
            "start one with `tunix-rt up`"
        )
    return (
        f"stopped watching; run {run_id} goes on: `tunix-rt runs watch {run_id}` resumes, "
        f"`tunix-rt runs cancel {run_id}` ends it"
    )


@dataclass
class _Display:
    """The bar, and the lines above it."""

    console: Console
    progress: Progress
    task: TaskID
    numbers: dict[str, float | None] = field(default_factory=dict)

    def show(self, update: RunUpdate) -> None:
        """Print what happened, and move the bar to where the run is."""
        for event in update.events:
            self.console.print(event_line(event), soft_wrap=True)
        for metric in update.metrics:
            self.numbers.update(metric.numbers)
        run = update.run
        stage = run.jobs[-1]
        self.progress.update(
            self.task,
            completed=stage.step,
            total=stage.total_steps,
            description=printable(f"{run.stage} {run.state}"),
            numbers=numbers_line(self.numbers) if run.stage == "train" else "",
        )


@contextmanager
def _display() -> Iterator[_Display]:
    console = err()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Display(console, progress, progress.add_task("waiting", total=None, numbers=""))


def event_line(event: Event) -> Text:
    """One line of the story."""
    at = event.at.astimezone().strftime("%H:%M:%S")
    attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    return Text(
        printable(f"{at} {event.stage}{attempt}: {event.message}"), style=EVENT_STYLES.get(event.to_state or "", "")
    )


def numbers_line(numbers: Mapping[str, float | None]) -> str:
    """What the newest step measured: loss, speed, and the time that is left."""
    parts = [
        ("loss {:.4f}", numbers.get("loss")),
        ("validation {:.4f}", numbers.get("validation_loss")),
        ("{:,.0f} tokens/s", numbers.get("tokens_per_s")),
    ]
    told = [template.format(number) for template, number in parts if number is not None]
    left_s = numbers.get("eta_s")
    return " · ".join(told + ([] if left_s is None else [f"{duration(left_s)} left"]))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, without leading zeros parts."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
