"""The judge against answers that people labelled, and against reference answers with one digit changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunix_rt_evaluator.judges import JUDGES

judge = JUDGES["answer_correctness@1"]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


SOURCES = pytest.mark.parametrize("source", ["judged_rows", "gsm8k"])


def labelled(source: str, request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(source)
    return folder / (
        "labelled_solutions.jsonl" if source == "judged_rows" else "labelled_solutions_6b_finetuning.jsonl"
    )


def references(source: str, request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(source)
    return folder / ("reference_answers.jsonl" if source == "judged_rows" else "train.jsonl")


def final(answer: str) -> str:
    return answer.rpartition("####")[2].strip()


def with_one_digit_changed(number: str) -> Iterator[str]:
    for position, character in enumerate(number):
        if character.isdigit():
            yield from (number[:position] + other + number[position + 1 :] for other in set("0123456789") - {character})


@SOURCES
def test_judge_agrees_with_every_human_label(source: str, request: pytest.FixtureRequest) -> None:
    wrong = [
        row["question"]
        for row in rows(labelled(source, request))
        if judge(row["solution"], row["ground_truth"]).correct != row["is_correct"]
    ]
    assert wrong == []


@SOURCES
def test_every_reference_answer_is_accepted(source: str, request: pytest.FixtureRequest) -> None:
    rejected = [
        row["answer"]
        for row in rows(references(source, request))
        if not judge(row["answer"], final(row["answer"])).correct
    ]
    assert rejected == []


@SOURCES
def test_every_reference_answer_with_one_digit_changed_is_rejected(source: str, request: pytest.FixtureRequest) -> None:
    accepted = []
    for number in {final(row["answer"]) for row in rows(references(source, request))}:
        for changed in with_one_digit_changed(number):
            forms = {f"#### {changed}", f"#### {changed.replace(',', '')}"}
            accepted += [form for form in forms if judge(form, number).correct]
    assert accepted == []


@SOURCES
def test_every_reference_text_with_its_last_digit_changed_is_rejected(
    source: str, request: pytest.FixtureRequest
) -> None:
    accepted = []
    for row in rows(references(source, request)):
        changed = row["answer"][:-1] + str((int(row["answer"][-1]) + 1) % 10)
        if judge(changed, row["answer"]).correct:
            accepted.append(changed)
    assert accepted == []
