"""Plans as users ask for them, made by real children of a real trainer."""

import json
import re

import pytest

from tunix_rt import cli

PLANS, RUNS = "/api/v1/plans", "/api/v1/runs"
BEYOND_ANY_MACHINE = {"batch_size": 65_536, "remat": "none"}
LONG = "and then one more " * 50


def trace(number, words=""):
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1 {words}"}]
    return {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1)}


@pytest.fixture(scope="module")
def sums(world):
    """A world with a dataset of sums, two of which are too long for any preset."""
    world.import_traces(*map(trace, range(30)), trace(30, LONG), trace(31, LONG))
    assert world.build("sums", test_fraction=0.05, validation_fraction=0.05)["state"] == "succeeded"
    return world


@pytest.fixture
def command(sums, monkeypatch, capsys):
    """Run `tunix-rt` in this process, against the world: exit code, stdout and stderr."""
    monkeypatch.setenv("TUNIX_RT_API_URL", sums.url)

    def call(*arguments):
        capsys.readouterr()
        code = cli.run(arguments)
        return code, *capsys.readouterr()

    return call


def ask(server, path=PLANS, base_model="tiny", **spec):
    """What came of asking for a plan."""
    accepted = server.post(path, {"dataset": "sums", "base_model": str(base_model), **spec})
    assert accepted.status == 202, accepted.text
    return server.wait(accepted.headers["location"])


def test_plan_says_what_the_run_then_does(sums):
    spec = {"train": {"epochs": 3.0, "batch_size": 8, "max_tokens": 64}, "evaluate": None, "promote": False}
    plan = ask(sums, **spec)["plan"]
    run = sums.wait(sums.start("sums", "tiny", **spec))
    assert run["state"] == "succeeded", run["failure"]
    assert run["total_steps"] == plan["steps"]
    assert len(run["checkpoints"]) == plan["checkpoints"]
    compressed = run["checkpoints"][0]["size_bytes"] / plan["checkpoint_bytes"]
    assert 0.8 < compressed < 1.01
    assert run["training"]["parameters"] == plan["parameters"]
    [told] = [e for e in sums.get(f"{RUNS}/{run['run_id']}/events").json if e["detail"].get("split") == "train"]
    assert {name: plan["train"][name] for name in ("rows", "kept", "dropped")} == {
        name: told["detail"][name] for name in ("rows", "kept", "dropped")
    }
    assert plan["train"]["dropped"] == len(plan["train"]["dropped_long_rows"]) == 2
    assert plan["train"]["longest_tokens"] > 512
    assert (plan["device"], plan["refusal"]) == ("cpu", None)
    assert plan["seconds"] > 0


def test_rows_are_tokenised_once_for_all_that_read_them_so(sums):
    kept = sums.home / "tokens"
    spec = {"train": {"max_tokens": 64, "max_steps": 1, "target": "answer"}, "evaluate": None}
    before = set(kept.glob("*"))
    ask(sums, **spec)
    made = {file: file.stat() for file in set(kept.glob("*")) - before}
    assert len(made) == 2
    assert sums.wait(sums.start("sums", "tiny", **spec))["state"] == "succeeded"
    assert set(kept.glob("*")) == before | set(made)
    for file, state in made.items():
        assert file.stat().st_ino == state.st_ino
        assert file.stat().st_mtime > state.st_mtime


def test_run_that_does_not_fit_is_refused_with_number_and_setting_and_then_fits(sums):
    train = {"batch_size": 256, "max_tokens": 64}
    refusal = ask(sums, memory_gib=0.1, train=train)["plan"]["refusal"]
    assert re.match(r"the run needs [\d.]+ MiB, and cpu has 102 MiB for it: set train\.", refusal["message"])
    settings = {name.removeprefix("train."): value for name, value in refusal["remedy"]["settings"].items()}
    mended = ask(sums, memory_gib=0.1, train=train | settings)["plan"]
    assert mended["refusal"] is None
    assert mended["needed_bytes"] == refusal["remedy"]["needed_bytes"]


def test_dry_run_is_a_plan_and_no_run(sums):
    before = sums.get(RUNS).json
    planned = ask(sums, f"{RUNS}?dry_run=true", train={"max_tokens": 64})
    assert planned["plan"]["parameters"] == 821_248
    assert sums.get(RUNS).json == before


def test_started_run_that_does_not_fit_fails_before_it_trains(sums):
    train = {"max_tokens": 64, **BEYOND_ANY_MACHINE}
    run = sums.wait(sums.start("sums", "small", train=train, evaluate=None))
    assert run["state"] == "failed"
    assert re.search(r"needs \d+ GiB, and cpu has [\d.]+ GiB for it: set train\.remat to full", run["failure"])
    assert (run["step"], run["checkpoints"], run["jobs"][0]["attempt"]) == (0, [], 1)


def test_model_directory_is_planned_for_a_named_device_without_its_weights(sums, stories):
    planned = ask(sums, base_model=stories, device="nvidia-l4", train={"lora": {"rank": 4}, "max_tokens": 256})
    plan = planned["plan"]
    assert plan["device"] == "nvidia-l4"
    assert plan["available_bytes"] == int(0.75 * 23_034 * 1024**2)
    assert plan["memory"]["checkpoint_copy_bytes"] == 0
    assert plan["trained_parameters"] < plan["parameters"] == plan["model_bytes"] / 4


def test_sharded_run_is_planned_for_each_of_its_devices(sums):
    train = {"max_tokens": 64, "batch_size": 8}
    whole = ask(sums, device="nvidia-l4", train=train)["plan"]
    cut = ask(sums, device="nvidia-l4", train=train | {"mesh": {"fsdp": 4}}, devices=4)["plan"]
    assert (whole["devices"], cut["devices"]) == (1, 4)
    for part in ("weights_bytes", "moments_bytes", "gradients_bytes", "batch_bytes"):
        assert cut["memory"][part] == pytest.approx(whole["memory"][part] / 4, rel=0.02)
    assert cut["needed_bytes"] < whole["needed_bytes"]
    for name in ("parameters", "checkpoint_bytes", "flops", "steps"):
        assert cut[name] == whole[name]
    assert cut["seconds"] == pytest.approx(whole["seconds"] / 4)


def test_batch_that_the_mesh_does_not_divide_is_refused(sums):
    planned = ask(sums, device="nvidia-l4", devices=4, train={"max_tokens": 64, "batch_size": 6})
    assert (planned["state"], planned["plan"]) == ("failed", None)
    assert "train.batch_size: a micro-batch of 6" in planned["failure"]


def test_row_beyond_the_positions_of_the_model_is_refused_by_number(sums):
    planned = ask(sums, train={"max_tokens": 4096})
    assert (planned["state"], planned["plan"]) == ("failed", None)
    assert re.search(r"train\.max_tokens: row \d+ .* has \d+ tokens: 4096 are allowed, but .* 512", planned["failure"])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"device": "abacus"}, "device"),
        ({"devices": 0}, "devices"),
        ({"memory_gib": 0}, "memory_gib"),
        ({"memory_gib": "16"}, "memory_gib"),
        ({"dataset": "nothing"}, "dataset"),
        ({"train": {"batch_size": 3, "accumulation": 2}}, "train"),
        ({"base_model": "nobody"}, "base_model"),
    ],
)
def test_plan_that_cannot_be_made_is_refused_by_field(sums, spec, field):
    problem = sums.post(PLANS, {"dataset": "sums", "base_model": "tiny"} | spec).problem(422)
    assert problem["errors"][0]["field"].startswith(field)


def test_run_has_no_device_of_its_own(sums):
    problem = sums.post(RUNS, {"dataset": "sums", "base_model": "tiny", "device": "cpu"}).problem(422)
    assert problem["errors"][0]["field"] == "device"


def test_what_is_no_plan_is_not_found(sums):
    sums.get(f"{PLANS}/{'0' * 8}-0000-0000-0000-{'0' * 12}").problem(404)
    run_job = sums.get(f"{sums.start('sums', 'tiny', train={'max_steps': 1, 'max_tokens': 64})}").json["jobs"][0]
    sums.get(f"{PLANS}/{run_job['job_id']}").problem(404)


def test_command_shows_the_plan_and_its_exit_code_says_whether_it_fits(command):
    options = ("--dataset", "sums", "--base-model", "tiny", "--max-tokens", "64", "--no-evaluate")
    code, out, err = command("runs", "plan", *options)
    assert (code, "error" in err) == (0, False)
    for part in ("weights", "optimizer moments", "gradients", "activations", "there is (cpu)", "821,248"):
        assert part in out
    assert "2 rows are longer than 64 tokens and would be dropped" in err
    code, out, err = command("runs", "plan", *options, "--batch-size", "256", "--memory-gib", "0.1", "--json")
    assert code == 1
    assert json.loads(out)["plan"]["refusal"]["message"] in " ".join(err.split())
    code, out, _ = command("runs", "create", *options, "--dry-run", "--json")
    assert (code, json.loads(out)["plan"]["refusal"]) == (0, None)


def test_command_tells_why_a_run_cannot_be_planned(command):
    code, out, err = command("runs", "plan", "--dataset", "sums", "--base-model", "tiny", "--max-tokens", "1024")
    assert (code, out) == (1, "")
    assert "Set max_tokens to at most 512" in err
