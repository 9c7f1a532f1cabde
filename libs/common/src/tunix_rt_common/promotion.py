"""Moving an alias: by compare-and-swap, and only where the gate allows it."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import CursorResult, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import AliasMoveRecord, AliasRecord, EvaluationRecord, ModelVersionRecord, utc_now
from tunix_rt_common.errors import Conflict, PromotionRefused


@dataclass(frozen=True)
class Standing:
    """What the gate knows of a version: its decision, and the version that it was compared with."""

    decision: str | None
    reason: str
    baseline_version_id: UUID | None


def refusal(standing: Standing, current_id: UUID | None, *, held_before: bool) -> str | None:
    """Why this version may not take the alias; None when it may.

    It needs a GO against whoever holds the alias now. A version that has held the alias before may come back: that is
    a rollback, and rolling back must work when judging does not.
    """
    if held_before:
        return None
    if standing.decision is None:
        return "it was never evaluated: start a run with an evaluation, and register what comes of it"
    if standing.decision != "GO":
        return f"its verdict is {standing.decision}: {standing.reason}"
    if current_id is not None and standing.baseline_version_id != current_id:
        return "its verdict compares it with another version than the one that holds the alias now: evaluate it again"
    return None


def current_alias(session: Session, name: str, alias: str) -> ModelVersionRecord | None:
    """The version that an alias points to."""
    joined = select(ModelVersionRecord).join(AliasRecord, AliasRecord.version_id == ModelVersionRecord.id)
    return session.scalar(joined.where(AliasRecord.name == name, AliasRecord.alias == alias))


def move_alias(
    session: Session, alias: str, target: ModelVersionRecord, *, expected_version: int | None, reason: str
) -> None:
    """Point an alias to a version: `Conflict` when it has moved, `PromotionRefused` when the gate does not allow it."""
    current = current_alias(session, target.name, alias)
    if (current.version if current else None) != expected_version:
        raise _moved(alias, current)
    held_before = session.scalar(
        select(AliasMoveRecord.id)
        .where(AliasMoveRecord.name == target.name, AliasMoveRecord.alias == alias)
        .where(AliasMoveRecord.to_version == target.version)
        .limit(1)
    )
    why_not = refusal(
        standing_of(session, target), current.id if current else None, held_before=held_before is not None
    )
    if why_not:
        raise PromotionRefused(f"{target.name} version {target.version} may not become {alias!r}: {why_not}")
    _swap(session, alias, current, target)
    session.add(
        AliasMoveRecord(
            name=target.name, alias=alias, from_version=expected_version, to_version=target.version, reason=reason
        )
    )


def standing_of(session: Session, version: ModelVersionRecord) -> Standing:
    """The gate's view of a version."""
    evaluation = session.get(EvaluationRecord, version.evaluation_id) if version.evaluation_id else None
    if evaluation is None:
        return Standing(None, "", None)
    return Standing(evaluation.decision, evaluation.reason, evaluation.baseline_version_id)


def _swap(session: Session, alias: str, current: ModelVersionRecord | None, target: ModelVersionRecord) -> None:
    if current is None:
        try:
            with session.begin_nested():
                session.add(AliasRecord(name=target.name, alias=alias, version_id=target.id))
        except IntegrityError:
            raise _moved(alias, current_alias(session, target.name, alias)) from None
        return
    expected = (AliasRecord.name == target.name, AliasRecord.alias == alias, AliasRecord.version_id == current.id)
    outcome = session.execute(update(AliasRecord).where(*expected).values(version_id=target.id, moved_at=utc_now()))
    if not (isinstance(outcome, CursorResult) and outcome.rowcount == 1):
        raise _moved(alias, current_alias(session, target.name, alias))


def _moved(alias: str, current: ModelVersionRecord | None) -> Conflict:
    now = f"points to version {current.version}" if current else "points to nothing yet"
    return Conflict(f"alias {alias!r} {now}: look at it again, then send that as expected_version")
