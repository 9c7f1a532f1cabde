"""Taking a bundle's run in: after its files are checked, in one transaction, as a run that has been trained already."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from tunix_rt_api.deps import Services
from tunix_rt_api.imports.checks import CheckedBundle, check_bundle
from tunix_rt_api.runs.modelpins import ModelPin
from tunix_rt_api.runs.pins import Pins, pin_baseline, pin_dataset
from tunix_rt_api.runs.schemas import RunOut
from tunix_rt_api.runs.service import show
from tunix_rt_common import pipeline, telemetry
from tunix_rt_common.db.models import DatasetRecord, MetricRecord, RunRecord
from tunix_rt_common.errors import Conflict, NotFound
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import NewJob
from tunix_rt_common.reports import digest
from tunix_rt_common.runbundle import RunBundle, measured
from tunix_rt_common.states import JobState


@dataclass(frozen=True)
class Stored:
    """The documents of a bundle that are kept, by their digests."""

    bundle_sha256: str
    model_sha256: str
    dataset_sha256: str
    report_sha256: str | None


LOST = (JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED)


def find_import(session: Session, bundle_sha256: str) -> RunRecord:
    """The run that came of a bundle; one that ended badly does not count, so that its bundle can be tried again."""
    found = _imported(session, bundle_sha256)
    if found is None:
        raise NotFound("no run came of this bundle yet: import it with `tunix-rt runs import`")
    return found


def import_run(services: Services, bundle: RunBundle) -> RunOut:
    """Check the bundle, then write its run with data and metrics, and the job of its next stage.

    Raises:
        InvalidInput: a part of the bundle is missing or does not fit; nothing has been written.
        Conflict: another import wrote a version of the same dataset meanwhile.
    """
    bundle_sha256 = digest(bundle)
    with services.database.reading() as session:
        if known := _imported(session, bundle_sha256):
            return show(known)
    checked = check_bundle(services.store, bundle, lambda sha256: _is_known(services, sha256))
    stored = Stored(
        bundle_sha256=services.store.put_document(bundle),
        model_sha256=services.store.put_document(checked.model),
        dataset_sha256=services.store.put_document(checked.dataset),
        report_sha256=services.store.put_document(checked.report) if checked.report else None,
    )
    try:
        with services.database.transaction() as session:
            return show(_imported(session, bundle_sha256) or _write(session, checked, stored))
    except Conflict:
        with services.database.reading() as session:
            if faster := _imported(session, bundle_sha256):
                return show(faster)
        raise


def _imported(session: Session, bundle_sha256: str) -> RunRecord | None:
    mine = select(RunRecord).where(RunRecord.bundle_sha256 == bundle_sha256, RunRecord.state.not_in(LOST))
    return session.scalar(mine)


def _is_known(services: Services, dataset_sha256: str) -> bool:
    with services.database.reading() as session:
        return _known_dataset(session, dataset_sha256) is not None


def _known_dataset(session: Session, dataset_sha256: str) -> DatasetRecord | None:
    mine = select(DatasetRecord).where(DatasetRecord.dataset_sha256 == dataset_sha256)
    return session.scalars(mine.order_by(DatasetRecord.id).limit(1)).first()


def _write(session: Session, checked: CheckedBundle, stored: Stored) -> RunRecord:
    spec = checked.bundle.spec
    dataset = _known_dataset(session, checked.dataset.dataset_sha256) or _add_dataset(session, checked, stored)
    run = _add_run(session, checked, dataset, stored)
    rows = [{"run_id": run.id, "step": metric.step, "numbers": metric.numbers} for metric in checked.metrics]
    session.execute(insert(MetricRecord), rows)
    stage = NewJob(
        "evaluate" if spec.evaluate else "register",
        payload=_trained(checked, stored),
        run_id=run.id,
        project=spec.project,
        priority=spec.priority,
        traceparent=run.traceparent,
    )
    pipeline.submit(session, stage)
    return run


def _add_run(session: Session, checked: CheckedBundle, dataset: DatasetRecord, stored: Stored) -> RunRecord:
    """The run; one of the same bundle that ended badly gives the bundle up to it."""
    for lost in session.scalars(select(RunRecord).where(RunRecord.bundle_sha256 == stored.bundle_sha256)):
        lost.bundle_sha256 = None
    session.flush()
    spec, last_step = checked.bundle.spec, checked.metrics[-1].step
    run = RunRecord(
        id=new_id(),
        spec=spec.model_dump(mode="json"),
        pins=_pins(session, checked, dataset, stored),
        labels={},
        dataset_id=dataset.id,
        bundle_sha256=stored.bundle_sha256,
        project=spec.project,
        state=JobState.QUEUED,
        stage="evaluate",
        step=last_step,
        total_steps=last_step,
        traceparent=telemetry.traceparent(),
    )
    telemetry.annotate(run_id=run.id)
    session.add(run)
    session.flush()
    return run


def _add_dataset(session: Session, checked: CheckedBundle, stored: Stored) -> DatasetRecord:
    """The bundle's dataset as the next version of its name."""
    name = checked.dataset.name
    latest = session.scalar(select(func.max(DatasetRecord.version)).where(DatasetRecord.name == name)) or 0
    dataset = DatasetRecord(
        id=new_id(),
        name=name,
        version=latest + 1,
        spec=checked.dataset.spec.model_dump(mode="json"),
        manifest_sha256=stored.dataset_sha256,
        dataset_sha256=checked.dataset.dataset_sha256,
    )
    session.add(dataset)
    session.flush()
    return dataset


def _pins(session: Session, checked: CheckedBundle, dataset: DatasetRecord, stored: Stored) -> dict[str, Any]:
    """As those of any run; the baseline is who holds the alias now, and the bundle's files are kept."""
    spec, base = checked.bundle.spec, checked.bundle.base_model
    model_name = spec.model_name or dataset.name
    pins = Pins(
        dataset=pin_dataset(dataset),
        eval_dataset=pin_dataset(dataset),
        base_model=ModelPin(base.name, None if base.sha256 else base.name, None),
        teacher=None,
        adapter=None,
        baseline=pin_baseline(session, model_name, spec.alias),
        model_name=model_name,
        code_version=checked.bundle.code_version,
    )
    return asdict(pins) | {"bundle": {"manifest_sha256": stored.bundle_sha256, "base_model_sha256": base.sha256}}


def _trained(checked: CheckedBundle, stored: Stored) -> dict[str, Any]:
    """What a training job would have handed on, and the report where the bundle has one."""
    report = {"report_sha256": stored.report_sha256} if stored.report_sha256 else {}
    return report | {
        "manifest_sha256": stored.model_sha256,
        "parameters": checked.parameters,
        "environment": checked.bundle.environment,
        "metrics": measured(checked.metrics),
    }
