"""`python -m tunix_rt_evaluator.offline BUNDLE`: judge a trained bundle with no service beside it.

The model in it answers its dataset's split as the spec asks, and the report becomes a part of the bundle. A verdict is
not given here: it belongs to the platform that takes the bundle in, which judges the answers again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tunix_rt_common import runbundle
from tunix_rt_common.datasetfolder import read_manifest, read_split
from tunix_rt_common.errors import InvalidInput, TunixError
from tunix_rt_common.reports import EvalReport, digest
from tunix_rt_common.runbundle import BUNDLE_FILE, DATASET_FOLDER, EVALUATION_FILE, MODEL_FOLDER
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_common.traces import canonical_json
from tunix_rt_evaluator.evaluation import asked_rows, build_report
from tunix_rt_evaluator.generation import OwnEngine, Respondent, answer_all
from tunix_rt_modeling import huggingface

BAD_INPUT = 2


def evaluate_offline(folder: Path) -> EvalReport:
    """Judge the bundle in a folder and add the report to it; one that is there already is returned.

    Raises:
        InvalidInput: the bundle is incomplete or changed, or its spec asks for no evaluation.
    """
    bundle = runbundle.read_bundle(folder)
    runbundle.check_files(folder, bundle)
    spec = bundle.spec.evaluate
    if spec is None:
        raise InvalidInput("the bundle's spec asks for no evaluation: train it with one", field="evaluate")
    if bundle.entry(EVALUATION_FILE):
        return EvalReport.model_validate_json((folder / EVALUATION_FILE).read_bytes())
    manifest = read_manifest(folder / DATASET_FOLDER)
    rows = asked_rows(manifest, read_split(folder / DATASET_FOLDER, manifest, spec.split), spec)
    model = huggingface.load(folder / MODEL_FOLDER)
    model_sha256 = digest(FolderManifest(files=bundle.below(MODEL_FOLDER)))
    report = build_report(
        rows,
        answer_all(Respondent(model.config, model.tokenizer, OwnEngine(model, spec)), rows, spec.sampling, _tell),
        spec,
        model_sha256=model_sha256,
        dataset_sha256=manifest.dataset_sha256,
        endpoint=None,
    )
    (folder / EVALUATION_FILE).write_bytes(canonical_json(report.model_dump(mode="json")))
    files = runbundle.list_files(folder)
    runbundle.write_bundle(folder, bundle.model_copy(update={"files": files}))
    return report


def main(arguments: Sequence[str]) -> int:
    """Read the command line, judge, and say what came of it; the exit code."""
    parser = argparse.ArgumentParser("python -m tunix_rt_evaluator.offline", description=evaluate_offline.__doc__)
    parser.add_argument("bundle", type=Path, help=f"the folder that training left, with {BUNDLE_FILE}")
    given = parser.parse_args(arguments)
    try:
        score = evaluate_offline(given.bundle).overall
    except TunixError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    sys.stderr.write(f"{score.correct} of {score.scored} right, {score.unscored} could not be judged\n")
    return 0


def _tell(done: int, total: int) -> None:
    sys.stderr.write(f"{done} of {total} prompts answered\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
