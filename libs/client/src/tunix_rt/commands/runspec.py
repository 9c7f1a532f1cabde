"""The options that describe a run, as one table from option to place in the run's spec."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tunix_rt.commands.options import Command, checked
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import METHODS, PRESET_NAMES, RunSpec

MODEL_FIELDS = ("base_model", "train.teacher", "train.lora.adapter")


class WeightsByName(click.ParamType[dict[str, float]]):
    """NAME=NUMBER, several with commas between them."""

    name = "name=number,…"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """The numbers by their names."""
        try:
            pairs = [part.rsplit("=", 1) for part in value.split(",")]
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            self.fail(f"{value!r} is not like verify=2,setup=0.5", param, ctx)


@dataclass(frozen=True)
class SpecOption:
    """One option, and the field of RunSpec that it sets."""

    flag: str
    path: str
    kind: "type | click.ParamType[Any]"
    help: str

    @property
    def name(self) -> str:
        """The option's name as a Python word."""
        return self.flag.lstrip("-").replace("-", "_")


SPEC_OPTIONS = (
    SpecOption("--dataset", "dataset", str, "NAME, NAME@VERSION or id."),
    SpecOption("--base-model", "base_model", str, "A preset, NAME@ALIAS, or a Hugging Face directory."),
    SpecOption("--method", "train.method", click.Choice(tuple(METHODS)), "How to train."),
    SpecOption("--engine", "train.engine", click.Choice(("jax", "tunix")), "What trains."),
    SpecOption("--target", "train.target", click.Choice(("trace", "answer")), "What the model shall learn to write."),
    SpecOption("--epochs", "train.epochs", float, "Passes over the training split."),
    SpecOption("--max-steps", "train.max_steps", int, "Optimizer steps at most."),
    SpecOption("--batch-size", "train.batch_size", int, "Sequences of one optimizer step."),
    SpecOption("--accumulation", "train.accumulation", int, "Micro-batches that a step is cut into."),
    SpecOption("--max-tokens", "train.max_tokens", int, "Longer rows are dropped and counted."),
    SpecOption("--packing", "train.packing", bool, "Several rows to a sequence of --max-tokens; sft and distill."),
    SpecOption("--step-weights", "train.step_weights", WeightsByName(), "How much steps count by their type; sft."),
    SpecOption("--beta", "train.beta", float, "How closely dpo keeps to its reference."),
    SpecOption("--label-smoothing", "train.label_smoothing", float, "Share of dpo's pairs that may be mistaken."),
    SpecOption("--ratio-weight", "train.ratio_weight", float, "How much orpo's odds ratio counts."),
    SpecOption("--teacher", "train.teacher", str, "Whom distill learns from: NAME@ALIAS, or a directory."),
    SpecOption("--distill-temperature", "train.temperature", float, "Softens both distributions of distill."),
    SpecOption("--distill-alpha", "train.alpha", float, "Share of the teacher in distill's loss."),
    SpecOption("--learning-rate", "train.optimizer.learning_rate", float, "Peak learning rate."),
    SpecOption(
        "--schedule",
        "train.optimizer.schedule.kind",
        click.Choice(("constant", "linear", "cosine")),
        "How the learning rate decays.",
    ),
    SpecOption("--warmup-steps", "train.optimizer.schedule.warmup_steps", int, "Steps of linear warm-up."),
    SpecOption("--weight-decay", "train.optimizer.weight_decay", float, "Decoupled weight decay."),
    SpecOption("--clip-norm", "train.optimizer.clip_norm", float, "Largest gradient norm."),
    SpecOption("--lora-rank", "train.lora.rank", int, "Train adapters of this rank instead of all weights."),
    SpecOption("--lora-alpha", "train.lora.alpha", float, "Scale of the adapters; needs --lora-rank."),
    SpecOption("--lora-rslora", "train.lora.rslora", bool, "Scale by alpha / sqrt(rank); needs --lora-rank."),
    SpecOption(
        "--lora-base",
        "train.lora.base",
        click.Choice(("float32", "nf4")),
        "How the frozen kernels are kept; needs --lora-rank or --lora-adapter.",
    ),
    SpecOption("--lora-adapter", "train.lora.adapter", str, "Go on from a PEFT directory, or from NAME@ALIAS's."),
    SpecOption(
        "--precision",
        "train.precision",
        click.Choice(("auto", "float32", "bfloat16")),
        "What matrix products run in; auto is bfloat16 on accelerators.",
    ),
    SpecOption(
        "--remat", "train.remat", click.Choice(("full", "dots", "none")), "What backward computes again to save memory."
    ),
    SpecOption("--mesh-data", "train.mesh.data", int, "Copies of the weights on the run's devices."),
    SpecOption("--mesh-fsdp", "train.mesh.fsdp", int, "Devices that share each copy; what is left unless given."),
    SpecOption("--mesh-tensor", "train.mesh.tensor", int, "Devices that share each layer's heads and MLP."),
    SpecOption("--checkpoint-every", "train.checkpoint_every", int, "Steps between checkpoints."),
    SpecOption("--validate-every", "train.validate_every", int, "Steps between validations."),
    SpecOption("--seed", "train.seed", int, "Seed of initialisation and order."),
    SpecOption("--eval-dataset", "evaluate.dataset", str, "Judge on another dataset than the run's own."),
    SpecOption(
        "--eval-split",
        "evaluate.split",
        click.Choice(("train", "validation", "test")),
        "Judge on this split.",
    ),
    SpecOption("--eval-limit", "evaluate.limit", int, "Judge on so many rows at most."),
    SpecOption("--eval-batch-size", "evaluate.batch_size", int, "Answers generated side by side."),
    SpecOption("--eval-cache-mib", "evaluate.cache_mib", int, "Memory for their keys and values, in MiB."),
    SpecOption("--max-new-tokens", "evaluate.sampling.max_new_tokens", int, "Longest answer."),
    SpecOption("--temperature", "evaluate.sampling.temperature", float, "0 is greedy."),
    SpecOption("--top-k", "evaluate.sampling.top_k", int, "Draw from the k likeliest tokens; 0 for all."),
    SpecOption("--top-p", "evaluate.sampling.top_p", float, "Draw from the likeliest tokens that add up to p."),
    SpecOption("--endpoint-url", "evaluate.endpoint.url", str, "An OpenAI-compatible server that answers instead."),
    SpecOption(
        "--endpoint-model",
        "evaluate.endpoint.model",
        str,
        "The name it serves the judged weights under, with {model_sha256} in it.",
    ),
    SpecOption("--endpoint-concurrency", "evaluate.endpoint.concurrency", int, "Answers it is asked for at a time."),
    SpecOption("--endpoint-timeout", "evaluate.endpoint.timeout_s", float, "Seconds that one answer may take."),
    SpecOption("--endpoint-retries", "evaluate.endpoint.retries", int, "How often a failed answer is asked for again."),
    SpecOption("--margin", "gate.margin", float, "How much worse than its baseline a model may be."),
    SpecOption("--confidence", "gate.confidence", float, "Confidence of the gate's intervals."),
    SpecOption("--min-items", "gate.min_items", int, "Fewer judged rows decide nothing."),
    SpecOption("--min-accuracy", "gate.min_accuracy", float, "Accuracy that a model needs in any case."),
    SpecOption("--model-name", "model_name", str, "Name in the registry; the dataset's unless given."),
    SpecOption("--project", "project", str, "Whose run it is: projects share the workers fairly."),
    SpecOption("--priority", "priority", int, "Within its project, higher comes first: -100 to 100."),
    SpecOption("--deadline", "deadline_s", float, "Fail unless it has ended so many seconds from now."),
    SpecOption("--alias", "alias", str, "The alias to win: its holder is the baseline."),
)


def spec_options(command: Command) -> Command:
    """Give a command all options of the table."""
    for option in reversed(SPEC_OPTIONS):
        flags = f"{option.flag}/--no-{option.name}" if option.kind is bool else option.flag
        command = click.option(flags, type=option.kind, default=None, help=option.help)(command)
    return command


def whole_spec_options(command: Command) -> Command:
    """Give a command all options that describe a run, for `whole_spec`."""
    for option in (
        click.option(
            "--spec",
            "spec_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A JSON file with a whole run; options override it.",
        ),
        click.option("--no-promote", is_flag=True, help="Leave the alias where it is, whatever the verdict."),
        click.option("--no-evaluate", is_flag=True, help="Train only: no judging, no verdict, no promotion."),
    ):
        command = option(command)
    return spec_options(command)


def whole_spec(given: Mapping[str, Any]) -> RunSpec:
    """The run that the options of `whole_spec_options` describe.

    Raises:
        InvalidInput: options contradict each other, or a value does not fit its field.
    """
    base = read_spec_file(given["spec_file"]) if given["spec_file"] else {}
    return run_spec(given, evaluate=not given["no_evaluate"], promote=not given["no_promote"], base=base)


def run_spec(given: Mapping[str, Any], *, evaluate: bool, promote: bool, base: Mapping[str, Any]) -> RunSpec:
    """The spec: `base` with the given options (by name; None where not given) on top; all else stays unset.

    Raises:
        InvalidInput: options contradict each other, or a value does not fit its field.
    """
    options = [option for option in SPEC_OPTIONS if given[option.name] is not None]
    _check_together(options, base, evaluate=evaluate)
    values: dict[str, Any] = deepcopy(dict(base))
    for option in options:
        _put(values, option.path, given[option.name])
    if not evaluate:
        values["evaluate"] = None
    if not promote:
        values["promote"] = False
    for path in MODEL_FIELDS:
        if isinstance(reference := _get(values, path), str):
            _put(values, path, _absolute_if_local(reference))
    return checked(RunSpec, values)


def read_spec_file(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}): write one object with the fields of a run") from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} holds no object: write one object with the fields of a run")
    return values


def _check_together(options: list[SpecOption], base: Mapping[str, Any], *, evaluate: bool) -> None:
    paths = {option.path for option in options}
    for field in ("dataset", "base_model"):
        if field not in paths and field not in base:
            raise InvalidInput(f"--{field.replace('_', '-')} is missing: give it, or a --spec file that holds it")
    judging = next((option.flag for option in options if option.path.startswith("evaluate.")), None)
    if judging and not evaluate:
        raise InvalidInput(f"{judging} and --no-evaluate contradict each other: leave one out")
    turned_on = {"train.lora.rank", "train.lora.adapter"} & paths or _get(base, "train.lora")
    tuned = next((option.flag for option in options if option.path.startswith("train.lora.")), None)
    if tuned and not turned_on:
        raise InvalidInput(f"{tuned} needs --lora-rank or --lora-adapter, which turn adapters on: give one of them")
    served = next((option.flag for option in options if option.path.startswith("evaluate.endpoint.")), None)
    if served and not ("evaluate.endpoint.url" in paths or _get(base, "evaluate.endpoint")):
        raise InvalidInput(f"{served} needs --endpoint-url, which names the server that answers: give both")


def _get(values: Mapping[str, Any], path: str) -> object:
    found: object = values
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _put(values: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        inner = values.get(key)
        values[key] = values = inner if isinstance(inner, dict) else {}
    values[last] = value


def _absolute_if_local(model: str) -> str:
    """A directory as the server can find it; anything else as it is."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if model not in PRESET_NAMES and folder.is_dir() else model
