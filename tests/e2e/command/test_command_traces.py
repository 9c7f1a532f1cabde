import json
import subprocess

import pytest

from tunix_rt_common.traces import Trace

GOOD = '{"question": "Two and two?", "answer": "2+2=4\\n#### 4"}\n'
BAD = '{"question": "Two and two?"}\n'


@pytest.fixture
def gsm8k(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.write_text("".join(lines))
        return str(path)

    return write


def test_imported_file_is_listed_with_its_stem_as_source(command, gsm8k):
    outcome = command("traces", "import", gsm8k("tests.jsonl", GOOD), "--json")
    assert outcome.code == 0
    assert outcome.json["accepted"] == 1
    assert outcome.json["rejected"] == []
    [listed] = command("traces", "list", "--source", "tests", "--json").json
    assert listed["trace"]["final_answer"] == "4"


def test_same_file_twice_is_all_duplicates(command, gsm8k):
    path = gsm8k("tests.jsonl", GOOD)
    command("traces", "import", path)
    outcome = command("traces", "import", path, "--json")
    assert (outcome.code, outcome.json["accepted"], outcome.json["duplicates"]) == (0, 0, 1)


def test_bad_line_is_told_by_number_and_ends_with_3(command, gsm8k):
    path = gsm8k("tests.jsonl", GOOD, BAD)
    outcome = command("traces", "import", path, "--format", "gsm8k")
    assert outcome.code == 3
    assert f"{path}:2: answer: is missing" in outcome.out


def test_many_bad_lines_are_cut_for_people_and_whole_for_json(command, gsm8k):
    path = gsm8k("tests.jsonl", *[BAD] * 15)
    assert command("traces", "import", path).out.count(": answer") == 10
    assert len(command("traces", "import", path, "--json").json["rejected"]) == 15


def test_refused_upload_of_a_large_file_tells_why(command, gsm8k):
    outcome = command("traces", "import", gsm8k("large.jsonl", *[GOOD] * 500_000), "--source", "s" * 300)
    assert outcome.code == 2
    assert "source" in outcome.err


def test_several_files_are_told_apart(command, gsm8k):
    outcome = command("traces", "import", gsm8k("one.jsonl", GOOD), gsm8k("two.jsonl", BAD), "--json")
    assert outcome.code == 3
    assert [row["rejected_count"] for row in outcome.json["files"]] == [0, 1]


def test_file_that_is_not_there_is_a_usage_error(command):
    outcome = command("traces", "import", "nowhere.jsonl")
    assert outcome.code == 2
    assert "nowhere.jsonl" in outcome.err
    assert outcome.out == ""


def test_generated_traces_are_imported_once(command):
    generate = ("traces", "generate", "arithmetic", "--count", "25", "--seed", "3", "--json")
    assert command(*generate).json["accepted"] == 25
    assert command(*generate).json["duplicates"] == 25


def test_generated_file_imports_without_rejections(command, tmp_path):
    path = str(tmp_path / "sums.jsonl")
    both = ("--operation", "+", "--operation", "-")
    outcome = command("traces", "generate", "arithmetic", "--count", "12", *both, "--output", path, "--json")
    assert outcome.json == {"output": path, "count": 12}
    assert command("traces", "import", path, "--format", "native", "--json").json["accepted"] == 12


def test_generated_lines_on_stdout_are_traces(command):
    outcome = command("traces", "generate", "arithmetic", "--count", "5", "--output", "-")
    assert len([Trace.model_validate_json(line) for line in outcome.out.splitlines()]) == 5


def test_json_and_rows_on_one_stdout_are_refused(command):
    outcome = command("traces", "generate", "arithmetic", "--count", "5", "--output", "-", "--json")
    assert outcome.code == 2
    assert "--output" in outcome.err


def test_markup_and_control_characters_in_traces_are_shown_as_they_are(command, gsm8k):
    trace = {"prompt": "[red]x[/red] \x1b[2J", "completion": "y"}
    command("traces", "import", gsm8k("odd.jsonl", json.dumps(trace)))
    listed = command("traces", "list").out
    assert "[red]x[/red] \\x1b[2J" in listed
    assert "\x1b" not in listed


def test_list_limit_counts_traces_across_pages(command):
    command("traces", "generate", "arithmetic", "--count", "230")
    assert len(command("traces", "list", "--limit", "205", "--json").json) == 205


def test_closed_pipe_ends_quietly(spawned, command):
    command("traces", "generate", "arithmetic", "--count", "200")
    process = spawned("traces", "generate", "arithmetic", "--count", "200000", "--output", "-")
    head = subprocess.run(["head", "-n1"], stdin=process.stdout, capture_output=True, check=True)
    process.stdout.close()
    assert json.loads(head.stdout)["prompt"]
    assert (process.wait(60), process.stderr.read()) == (141, "")


def test_piped_output_has_no_control_characters_and_no_broken_lines(spawned, command):
    command("traces", "generate", "arithmetic", "--count", "3")
    out, err = spawned("traces", "list").communicate()
    assert "\x1b" not in out + err
    assert out.count("synthetic-arithmetic") == len(out.splitlines()) - 2
