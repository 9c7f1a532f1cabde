"""Real corpora and a real pretrained model, through the public doors."""

import pytest


def imported(world, path, **query):
    outcome = world.import_lines(path.read_bytes(), **query)
    return outcome["accepted"], outcome["duplicates"], outcome["rejected_count"]


def test_gsm8k_is_imported_whole_and_once(api, shared_data):
    corpus = shared_data / "gsm8k" / "train.jsonl"
    assert imported(api, corpus) == (7473, 0, 0)
    assert imported(api, corpus) == (0, 7473, 0)


def test_traces_of_the_earlier_system_are_imported_unchanged(api, shared_data):
    corpus = shared_data / "tunix-rt" / "dev-reasoning-v2.jsonl"
    accepted, duplicates, rejected = imported(api, corpus)
    assert (accepted + duplicates, rejected) == (550, 0)
    built = api.build("dev", validation_fraction=0.1, test_fraction=0.1)
    statistics = built["manifest"]["statistics"]
    assert (statistics["rows"], statistics["groups"]) == (accepted, 476)


@pytest.fixture(scope="module")
def tuned(world, shared_data):
    """A pretrained model, tuned on real problems and judged on a real evaluation set."""
    gsm8k = (shared_data / "gsm8k" / "train.jsonl").read_bytes().splitlines()[:300]
    world.import_lines(b"\n".join(gsm8k), source="gsm8k")
    world.import_lines((shared_data / "tunix-rt" / "eval_v2.jsonl").read_bytes(), source="eval_v2")
    world.build("gsm8k", filters={"source": "gsm8k"}, validation_fraction=0.1, test_fraction=0.1)
    world.build("eval-v2", filters={"source": "eval_v2"}, validation_fraction=0, test_fraction=1)
    train = {"lora": {}}
    evaluate = {"dataset": "eval-v2"}
    location = world.start("gsm8k", shared_data / "models" / "stories260K", train=train, evaluate=evaluate)
    run = world.wait(location)
    assert run["state"] == "succeeded", run["failure"]
    return run


def test_adapters_on_a_pretrained_model_learn_real_problems(world, tuned):
    measured = tuned["training"]["metrics"]
    assert measured["validation_loss"] < measured["base_validation_loss"]
    [version] = world.get("/api/v1/models/gsm8k/versions").json
    assert version["version"] == tuned["model_version"] == 1
    assert version["metrics"]["validation_loss"] == measured["validation_loss"]


def test_report_has_a_slice_for_every_kind_of_item(world, tuned):
    evaluation = world.get(f"/api/v1/evaluations/{tuned['evaluation_id']}").json
    assert evaluation["score"]["scored"] + evaluation["score"]["unscored"] == 100

    def sizes(dimension: str) -> dict[str, int]:
        scores = evaluation["slices"][dimension]
        return {name: score["scored"] + score["unscored"] for name, score in scores.items()}

    assert sizes("section") == {"core": 60, "trace_sensitive": 25, "edge_case": 15}
    assert sizes("difficulty") == {"easy": 52, "medium": 37, "hard": 11}
    assert sizes("category")["arithmetic"] == 35
    assert sum(sizes("category").values()) == 100
