"""The judge against answers that people labelled, and against reference answers with one digit changed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tunix_rt_evaluator.judges import JUDGES

judge = JUDGES["answer_correctness@1"]


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.fixture(params=["fixture", "complete"])
def labelled(request: pytest.FixtureRequest) -> Path:
    if request.param == "fixture":
        return request.getfixturevalue("judged_rows") / "labelled_solutions.jsonl"
    return request.getfixturevalue("gsm8k") / "labelled_solutions_6b_finetuning.jsonl"


@pytest.fixture(params=["fixture", "complete"])
def references(request: pytest.FixtureRequest) -> Path:
    if request.param == "fixture":
        return request.getfixturevalue("judged_rows") / "reference_answers.jsonl"
    return request.getfixturevalue("gsm8k") / "train.jsonl"


def final(answer: str) -> str:
    return answer.rpartition("####")[2].strip()


def with_one_digit_changed(number: str) -> Iterator[str]:
    for position, character in enumerate(number):
        if character.isdigit():
            yield from (number[:position] + other + number[position + 1 :] for other in set("0123456789") - {character})


def test_judge_agrees_with_every_human_label(labelled: Path) -> None:
    wrong = [
        row["question"]
        for row in rows(labelled)
        if judge(row["solution"], row["ground_truth"]).correct != row["is_correct"]
    ]
    assert wrong == []


def test_every_reference_answer_is_accepted(references: Path) -> None:
    rejected = [row["answer"] for row in rows(references) if not judge(row["answer"], final(row["answer"])).correct]
    assert rejected == []


def test_every_reference_answer_with_one_digit_changed_is_rejected(references: Path) -> None:
    accepted = []
    for number in {final(row["answer"]) for row in rows(references)}:
        for changed in with_one_digit_changed(number):
            forms = (f"#### {changed}", f"A: {changed.replace(',', '')}", f"So it is ${changed} in the end.")
            accepted += [form for form in forms if judge(form, number).correct]
    assert accepted == []


def test_every_reference_text_with_its_last_digit_changed_is_rejected(references: Path) -> None:
    accepted = []
    for row in rows(references):
        changed = row["answer"][:-1] + str((int(row["answer"][-1]) + 1) % 10)
        if judge(changed, row["answer"]).correct:
            accepted.append(changed)
    assert accepted == []
