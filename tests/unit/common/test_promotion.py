"""Who may take an alias, and that nobody takes it behind somebody's back."""

import threading

import pytest
from sqlalchemy import select

from tunix_rt_common.db.models import AliasMoveRecord, EvaluationRecord, ModelVersionRecord
from tunix_rt_common.errors import Conflict, PromotionRefused
from tunix_rt_common.ids import new_id
from tunix_rt_common.promotion import Standing, current_alias, move_alias, refusal

GO, NO_GO, UNKNOWN = "GO", "NO-GO", "INCONCLUSIVE"
CHAMPION, OTHER = new_id(), new_id()


class Registry:
    """Versions of one model and its alias 'champion'."""

    def __init__(self, machine):
        self.machine = machine

    def add(self, version, decision=GO, baseline=None):
        """A version whose gate said `decision` when it was compared with version `baseline`."""
        job = self.machine.job(self.machine.submit_run())
        with self.machine.writing() as session:
            evaluation = None
            if decision:
                evaluation = EvaluationRecord(
                    id=new_id(),
                    run_id=job.run_id,
                    model_sha256="a" * 64,
                    report_sha256="b" * 64,
                    eval_set_sha256="c" * 64,
                    judge="answer_correctness@1",
                    score={},
                    verdict_sha256="d" * 64,
                    decision=decision,
                    reason="said the gate",
                    baseline_version_id=self._find(session, baseline).id if baseline else None,
                )
                session.add(evaluation)
                session.flush()
            session.add(
                ModelVersionRecord(
                    id=new_id(),
                    name="sums",
                    version=version,
                    run_id=job.run_id,
                    manifest_sha256="e" * 64,
                    evaluation_id=evaluation.id if evaluation else None,
                    metrics={},
                    provenance={},
                )
            )

    def move(self, version, expected):
        with self.machine.writing() as session:
            move_alias(session, "champion", self._find(session, version), expected_version=expected, reason="a test")

    @property
    def champion(self):
        with self.machine.reading() as session:
            current = current_alias(session, "sums", "champion")
            return current.version if current else None

    @property
    def moves(self):
        return [(row.from_version, row.to_version) for row in self.machine.all(AliasMoveRecord)]

    def _find(self, session, version):
        return session.scalars(select(ModelVersionRecord).where(ModelVersionRecord.version == version)).one()


@pytest.fixture
def registry(machine):
    return Registry(machine)


@pytest.mark.parametrize(
    ("decision", "baseline", "current", "held_before", "words"),
    [
        (GO, None, None, False, None),
        (GO, CHAMPION, CHAMPION, False, None),
        (GO, OTHER, CHAMPION, False, "compares it with another version"),
        (GO, None, CHAMPION, False, "compares it with another version"),
        (GO, OTHER, None, False, None),
        (NO_GO, CHAMPION, CHAMPION, False, "its verdict is NO-GO: worse"),
        (UNKNOWN, CHAMPION, CHAMPION, False, "its verdict is INCONCLUSIVE: worse"),
        (NO_GO, None, None, False, "its verdict is NO-GO"),
        (None, None, None, False, "never evaluated"),
        (None, None, CHAMPION, False, "never evaluated"),
        (None, None, CHAMPION, True, None),
        (NO_GO, OTHER, CHAMPION, True, None),
    ],
)
def test_alias_is_refused_without_a_go_against_who_holds_it_now(decision, baseline, current, held_before, words):
    why_not = refusal(Standing(decision, "worse", baseline), current, held_before=held_before)
    assert (why_not is None) == (words is None)
    assert words is None or words in why_not


def test_first_version_with_a_go_takes_the_alias(registry):
    registry.add(1)
    registry.move(1, expected=None)
    assert (registry.champion, registry.moves) == (1, [(None, 1)])


def test_better_version_takes_the_alias_from_the_one_it_was_compared_with(registry):
    registry.add(1)
    registry.move(1, expected=None)
    registry.add(2, baseline=1)
    registry.move(2, expected=1)
    assert (registry.champion, registry.moves) == (2, [(None, 1), (1, 2)])


@pytest.mark.parametrize("decision", [NO_GO, UNKNOWN, None])
def test_version_without_a_go_is_refused_and_nothing_moves(registry, decision):
    registry.add(1, decision)
    with pytest.raises(PromotionRefused, match="sums version 1 may not become 'champion'"):
        registry.move(1, expected=None)
    assert (registry.champion, registry.moves) == (None, [])


def test_go_against_an_earlier_champion_does_not_count(registry):
    registry.add(1)
    registry.move(1, expected=None)
    registry.add(2, baseline=1)
    registry.add(3, baseline=1)
    registry.move(2, expected=1)
    with pytest.raises(PromotionRefused, match="evaluate it again"):
        registry.move(3, expected=2)
    assert registry.champion == 2


@pytest.mark.parametrize("expected", [None, 7])
def test_alias_that_is_not_where_the_mover_believes_does_not_move(registry, expected):
    registry.add(1)
    registry.move(1, expected=None)
    registry.add(2, baseline=1)
    with pytest.raises(Conflict, match="points to version 1"):
        registry.move(2, expected=expected)
    assert (registry.champion, registry.moves) == (1, [(None, 1)])


def test_expecting_a_version_where_the_alias_points_to_nothing_is_a_conflict(registry):
    registry.add(1)
    with pytest.raises(Conflict, match="points to nothing yet"):
        registry.move(1, expected=1)


def test_version_that_held_the_alias_before_may_come_back_whatever_was_judged_since(registry):
    registry.add(1)
    registry.move(1, expected=None)
    registry.add(2, baseline=1)
    registry.move(2, expected=1)
    registry.move(1, expected=2)
    assert (registry.champion, registry.moves) == (1, [(None, 1), (1, 2), (2, 1)])


def test_of_two_movers_at_once_one_moves_and_the_other_is_told(registry):
    registry.add(1)
    registry.move(1, expected=None)
    rivals, barrier, told = range(2, 6), threading.Barrier(4), []
    for version in rivals:
        registry.add(version, baseline=1)

    def move(version):
        barrier.wait()
        try:
            registry.move(version, expected=1)
        except Conflict:
            told.append(version)

    threads = [threading.Thread(target=move, args=(version,)) for version in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    assert {registry.champion} == set(rivals) - set(told)
    assert registry.moves == [(None, 1), (1, registry.champion)]
