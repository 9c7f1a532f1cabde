import json

import pytest


def test_build_waits_and_tells_digest_and_splits(command):
    command("traces", "generate", "arithmetic", "--count", "40")
    built = command("datasets", "build", "sums", "--test-fraction", "0.25", "--seed", "5", "--json")
    assert built.code == 0
    assert built.json["state"] == "succeeded"
    assert built.json["dataset_sha256"]
    assert sum(split["rows"] for split in built.json["manifest"]["splits"].values()) == 40
    assert built.json["spec"]["seed"] == 5


def test_build_of_nothing_says_to_import_first(command):
    outcome = command("datasets", "build", "sums", "--source", "nowhere")
    assert outcome.code == 2
    assert "import some first" in outcome.err


def test_build_that_fails_ends_with_1_and_the_reason(command):
    command("traces", "generate", "arithmetic", "--count", "10")
    outcome = command("datasets", "build", "sums", "--filter", "meta.category=none such")
    assert outcome.code == 1
    assert "sums@1 could not be built" in outcome.err


def test_value_out_of_range_is_refused_before_anything_is_sent(command):
    outcome = command("datasets", "build", "sums", "--test-fraction", "2")
    assert outcome.code == 2
    assert "test_fraction" in outcome.err


def test_filter_without_equals_sign_is_refused(command):
    outcome = command("datasets", "build", "sums", "--filter", "source")
    assert outcome.code == 2
    assert "source=gsm8k" in outcome.err


def test_built_dataset_is_listed_and_shown(command, dataset):
    assert dataset in command("datasets", "list").out
    shown = command("datasets", "show", "sums")
    assert "validation" in shown.out
    assert command("datasets", "show", dataset, "--json").json["version"] == 1


def test_unknown_dataset_ends_with_2_and_one_line(command):
    outcome = command("datasets", "show", "nothing")
    assert outcome.code == 2
    assert outcome.err.startswith("error: no dataset 'nothing'")
    assert outcome.err.count("\n") == 1


def test_export_writes_every_row_of_a_split(command, dataset, tmp_path):
    path = tmp_path / "test.jsonl"
    rows = command("datasets", "show", dataset, "--json").json["manifest"]["splits"]["test"]["rows"]
    outcome = command("datasets", "export", dataset, "--split", "test", "--output", str(path), "--json")
    assert outcome.json["size_bytes"] == path.stat().st_size
    assert len(path.read_text().splitlines()) == rows


def test_export_to_stdout_is_nothing_but_rows(command, dataset):
    lines = command("datasets", "export", dataset).out.splitlines()
    assert len({json.loads(line)["row_id"] for line in lines}) == 40


@pytest.mark.parametrize("target", ["trace", "answer"])
def test_preview_shows_the_final_answer_of_each_row(command, dataset, target):
    rows = command("datasets", "preview", dataset, "--target", target, "--limit", "2", "--json").json
    assert len(rows) == 2
    assert all(any(part["trained"] for part in row["segments"]) for row in rows)
    assert rows[0]["text"] in command("datasets", "preview", dataset, "--target", target).out
