import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunix_rt_evaluator.agreement import Agreement, cohens_kappa, judges

KEYS = ("--judge", "answer_correctness@1", "--prediction", "solution", "--expected", "truth", "--label", "right")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(judges, [str(argument) for argument in arguments])


def write(folder: Path, *lines: object) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def row(solution: object, truth: object, right: object) -> dict[str, object]:
    return {"solution": solution, "truth": truth, "right": right}


def test_labelled_solutions_agree_in_full(judged_rows: Path) -> None:
    file = judged_rows / "labelled_solutions.jsonl"
    keys = ("--prediction", "solution", "--expected", "ground_truth", "--label", "is_correct")
    result = run("agreement", file, "--judge", "answer_correctness@1", *keys, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["n"], document["agreement"], document["kappa"]["value"]) == (23, 1.0, 1.0)
    assert document["disagreements"] == []


def test_table_counts_judge_against_label(tmp_path: Path) -> None:
    file = write(
        tmp_path, row("5", "5", True), row("5", "5", "no"), row("6", "5", 1), row("6", "5", False), row("7", 7, 1)
    )
    document = json.loads(run("agreement", file, *KEYS, "--json").stdout)
    assert document["confusion"] == {
        "both_correct": 2,
        "only_judge_correct": 1,
        "only_label_correct": 1,
        "both_wrong": 1,
    }
    assert [(found["line"], found["judged"], found["label"]) for found in document["disagreements"]] == [
        (2, True, False),
        (3, False, True),
    ]


def test_people_get_a_table_with_the_disagreements(tmp_path: Path) -> None:
    result = run("agreement", write(tmp_path, row("6", "5", True), row("5", "5", True)), *KEYS)
    assert result.exit_code == 0
    assert "2 rows, agreement 50.00%" in result.stdout
    assert "1 disagreements" in result.stdout
    assert "'6' (from whole text) is not '5'" in result.stdout


def test_bad_lines_are_reported_by_number_and_left_out(tmp_path: Path) -> None:
    lines = (
        "{",
        "[1]",
        "",
        {"solution": "5", "truth": "5"},
        row("5", "5", "maybe"),
        row(None, "5", 1),
        row("5", "5", 1),
    )
    result = run("agreement", write(tmp_path, *lines), *KEYS, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["n"] == 1
    assert [problem["line"] for problem in document["bad_lines"]] == [1, 2, 4, 5, 6]
    assert "line 4: has no 'right': its keys are 'solution', 'truth'" in result.stderr


def test_row_that_cannot_be_judged_is_unscored(tmp_path: Path) -> None:
    document = json.loads(run("agreement", write(tmp_path, row("5", " ", 1), row("5", "5", 1)), *KEYS, "--json").stdout)
    assert (document["n"], [problem["line"] for problem in document["unscored"]]) == (1, [1])


@pytest.mark.parametrize("content", ["", "not json\n", '{"other": 1}\n', "[" * 100_000, '{"a":' * 50_000, "\x00"])
def test_file_without_a_usable_line_exits_2_without_a_stack_trace(tmp_path: Path, content: str) -> None:
    result = run("agreement", write(tmp_path, content), *KEYS)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "check the file and the keys" in result.stderr


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xff\xfe\n" + json.dumps(row("5", "5", 1)).encode())
    result = run("agreement", file, *KEYS, "--json")
    assert [problem["line"] for problem in json.loads(result.stdout)["bad_lines"]] == [1]


def test_half_a_character_and_control_codes_are_shown_harmlessly(tmp_path: Path) -> None:
    result = run("agreement", write(tmp_path, row("\ud800", "5", 1), row("\x1b[2J", "5", 1)), *KEYS)
    assert result.exit_code == 0
    assert "\x1b[2J" not in result.stdout


@pytest.mark.parametrize("arguments", [("nowhere.jsonl", *KEYS), (Path(__file__), "--judge", "tarot@1", *KEYS[2:])])
def test_unknown_file_or_judge_exits_2(arguments: tuple[str | Path, ...]) -> None:
    assert run("agreement", *arguments).exit_code == 2


def test_list_names_every_judge() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.startswith("answer_correctness@1  ")


def test_command_loads_nothing_heavy() -> None:
    heavy = "{'jax', 'numpy', 'scipy', 'sqlalchemy', 'celery', 'tunix_rt_modeling'}"
    code = f"import sys, tunix_rt_evaluator.agreement; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr


def test_kappa_of_the_textbook_table_is_0_4() -> None:
    kappa = cohens_kappa(Agreement(20, 5, 10, 15))
    assert kappa is not None
    assert kappa[0] == pytest.approx(0.4)


@pytest.mark.parametrize("counts", [(20, 5, 10, 15), (40, 3, 9, 48), (7, 2, 1, 300)])
def test_kappa_interval_is_that_of_the_delta_method(counts: tuple[int, int, int, int]) -> None:
    def kappa_at(shares: list[float]) -> float:
        a, b, c, d = (share / sum(shares) for share in shares)
        chance = (a + b) * (a + c) + (c + d) * (b + d)
        return (a + d - chance) / (1 - chance)

    n, step = sum(counts), 1e-6
    shares = [count / n for count in counts]
    nudged = [[share + step * (k == cell) for k, share in enumerate(shares)] for cell in range(4)]
    slopes = [(kappa_at(moved) - kappa_at(shares)) / step for moved in nudged]
    mean = sum(share * slope for share, slope in zip(shares, slopes, strict=True))
    variance = sum(share * (slope - mean) ** 2 for share, slope in zip(shares, slopes, strict=True)) / n
    kappa = cohens_kappa(Agreement(*counts))
    assert kappa is not None
    assert kappa[0] - kappa[1] == pytest.approx(1.96 * variance**0.5, rel=1e-3)


@pytest.mark.parametrize("table", [Agreement(), Agreement(both_correct=9), Agreement(both_wrong=9)])
def test_kappa_is_undefined_where_chance_explains_everything(table: Agreement) -> None:
    assert cohens_kappa(table) is None
