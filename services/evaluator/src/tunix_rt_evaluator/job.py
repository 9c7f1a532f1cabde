"""`python -m tunix_rt_evaluator.job`: one evaluation attempt, in a process of its own.

The candidate answers the evaluation set, unless its answers came with it; so does the baseline where it has no report
on the same questions under the same conditions. The gate then compares the two reports.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunix_rt_common import telemetry
from tunix_rt_common.child import Child, ToldToLeave, run_child
from tunix_rt_common.datasets import DatasetManifest, DatasetRow, read_rows
from tunix_rt_common.db.models import RunRecord
from tunix_rt_common.endpoint import check_allowed
from tunix_rt_common.reports import EvalReport, ServedModel
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import EndpointSpec, EvalSpec, RunSpec
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder
from tunix_rt_evaluator.endpoint import Endpoint
from tunix_rt_evaluator.evaluation import asked_rows, build_report, judge_again
from tunix_rt_evaluator.gate import decide
from tunix_rt_evaluator.generation import OwnEngine, Respondent, answer_all
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.tokenizer import load_tokenizer


def evaluate_run(child: Child) -> dict[str, Any]:
    """Generate, judge, gate; where report and verdict are stored."""
    with child.database.reading() as session:
        run = session.get_one(RunRecord, child.claim.run_id)
        spec, pins = RunSpec.model_validate(run.spec), run.pins
    assert spec.evaluate is not None  # noqa: S101
    manifest = child.store.get_document(DatasetManifest, pins["eval_dataset"]["manifest_sha256"])
    rows = _rows(child, manifest, spec.evaluate)
    candidate = _candidate_report(child, rows, spec.evaluate, manifest.dataset_sha256)
    baseline = _baseline_report(child, pins["baseline"], candidate, rows, spec.evaluate)
    with telemetry.span("gate"):
        verdict = decide(baseline, candidate, spec.gate)
        telemetry.annotate(decision=verdict.decision)
    return {
        "report_sha256": child.store.put_document(candidate),
        "verdict_sha256": child.store.put_document(verdict),
    }


def _rows(child: Child, manifest: DatasetManifest, spec: EvalSpec) -> Sequence[DatasetRow]:
    shards = [shard for shard in manifest.shards if shard.split == spec.split]
    rows = [row for shard in shards for row in read_rows(child.store.read(shard.sha256).splitlines())]
    return asked_rows(manifest, rows, spec)


def _candidate_report(child: Child, rows: Sequence[DatasetRow], spec: EvalSpec, dataset_sha256: str) -> EvalReport:
    """The model's answers under our judge; those of a bundle are not asked for again, but the model has to load."""
    model_sha256, brought = child.claim.payload["manifest_sha256"], child.claim.payload.get("report_sha256")
    if brought is None:
        return _report(child, model_sha256, rows, spec, dataset_sha256)
    child.story("judging_again", f"judges the {len(rows)} answers that came with model {model_sha256[:12]}")
    _respondent(child, model_sha256, spec)
    with telemetry.span("judge", judge=spec.judge):
        report = child.store.get_document(EvalReport, brought)
        return judge_again(report, rows, spec, model_sha256=model_sha256, dataset_sha256=dataset_sha256)


def _report(
    child: Child, model_sha256: str, rows: Sequence[DatasetRow], spec: EvalSpec, dataset_sha256: str
) -> EvalReport:
    respondent = _respondent(child, model_sha256, spec)
    served = respondent.served

    def on_progress(done: int, total: int) -> None:
        child.progress(done, total)
        if child.leaving.is_set():
            raise ToldToLeave

    who = f"{served.model} at {served.url}" if served else f"model {model_sha256[:12]}"
    child.story("generating", f"{who} answers {len(rows)} prompts of split {spec.split}")
    with telemetry.span("generate", prompts=len(rows)):
        answers = answer_all(respondent, rows, spec.sampling, on_progress)
    with telemetry.span("judge", judge=spec.judge):
        return build_report(
            rows, answers, spec, model_sha256=model_sha256, dataset_sha256=dataset_sha256, endpoint=served
        )


def _respondent(child: Child, model_sha256: str, spec: EvalSpec) -> Respondent:
    """The model, whole or, where an endpoint holds its weights, what it takes to put questions to it."""
    manifest = child.store.get_document(FolderManifest, model_sha256)
    if spec.endpoint:
        described = tuple(entry for entry in manifest.files if not entry.path.endswith(".safetensors"))
        manifest = manifest.model_copy(update={"files": described})
    folder = child.settings.scratch_dir / "evaluations" / f"{child.claim.claim_id}-{model_sha256[:12]}"
    try:
        with telemetry.span("load model", model=model_sha256[:12]):
            fetch_folder(child.store, manifest, folder)
            if spec.endpoint:
                return _elsewhere(child.settings, folder, model_sha256, spec, spec.endpoint)
            model = huggingface.load(folder)
            return Respondent(model.config, model.tokenizer, OwnEngine(model, spec))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _elsewhere(
    settings: Settings, folder: Path, model_sha256: str, spec: EvalSpec, endpoint: EndpointSpec
) -> Respondent:
    check_allowed(settings.endpoint_urls, endpoint.url)
    config, tokenizer = huggingface.read_config(folder), load_tokenizer(folder)
    served = ServedModel(url=endpoint.url, model=endpoint.model.replace("{model_sha256}", model_sha256))
    ends = tuple(sorted({*config.eos_token_ids, tokenizer.eos_id}))
    key = settings.endpoint_api_keys.get(endpoint.url)
    generator = Endpoint(endpoint, served.model, spec.sampling, ends, key.get_secret_value() if key else None)
    return Respondent(config, tokenizer, generator, served)


def _baseline_report(
    child: Child, pin: dict[str, Any] | None, candidate: EvalReport, rows: Sequence[DatasetRow], spec: EvalSpec
) -> EvalReport | None:
    """The baseline's own report where it was asked the same questions in the same way; a new one otherwise."""
    if pin is None:
        return None
    if pin["report_sha256"]:
        report = child.store.get_document(EvalReport, pin["report_sha256"])
        if _asked_alike(report, candidate):
            return report
        child.story(
            "baseline", f"version {pin['version']} was asked other questions, or in another way: asking it again"
        )
    return _report(child, pin["manifest_sha256"], rows, spec, candidate.dataset_sha256)


def _asked_alike(one: EvalReport, other: EvalReport) -> bool:
    """The same questions, drawn in the same way by the same engine, before the same judge."""
    ours, theirs = (
        (report.eval_set_sha256, report.judge, report.sampling, report.endpoint and report.endpoint.url)
        for report in (one, other)
    )
    return ours == theirs


if __name__ == "__main__":
    sys.exit(run_child(evaluate_run))
