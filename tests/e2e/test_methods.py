"""The methods as users run them, one after the other: each goes on from what the one before has registered."""

import pytest

QUICK = {"max_steps": 2, "batch_size": 2, "max_tokens": 128, "checkpoint_every": 2}


def pair(number: int) -> dict[str, object]:
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}, {"i": 1, "type": "verify", "content": "yes"}]
    rejected = {"steps": steps[:1], "final_answer": str(number + 2)} if number % 2 else None
    given = {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1)}
    return given | ({"rejected": rejected} if rejected else {})


@pytest.fixture(scope="module")
def school(world):
    world.import_traces(*map(pair, range(12)))
    built = world.build("pairs", test_fraction=0.2, validation_fraction=0.2)
    counts = built["manifest"]["splits"]
    assert sum(split["pairs"] for split in counts.values()) == 6
    return world


def trained(world, base_model, **train):
    run = world.wait(world.start("pairs", base_model, model_name="student", evaluate=None, train=QUICK | train))
    assert run["state"] == "succeeded", run["failure"]
    files = world.get(f"/api/v1/models/student/versions/{run['model_version']}").json["files"]
    return run, {file["path"] for file in files}


def story(world, run, kind):
    events = world.get(f"/api/v1/runs/{run['run_id']}/events").json
    return [event["message"] for event in events if event["kind"] == kind]


def numbers_of(world, run, step):
    metrics = world.get(f"/api/v1/runs/{run['run_id']}/metrics").json
    return next(row["numbers"] for row in metrics if row["step"] == step)


def test_adapter_over_a_base_in_four_bits_is_registered_beside_the_merged_model(school, stories):
    lora = {"rank": 2, "rslora": True, "base": "nf4"}
    run, files = trained(school, stories, lora=lora, step_weights={"verify": 2.0, "guess": 0.5})
    assert run["model_version"] == 1
    assert {"model.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= files
    config = school.get("/api/v1/models/student/versions/1/files/adapter/adapter_config.json").json
    assert (config["r"], config["use_rslora"], config["base_model_name_or_path"]) == (2, True, "stories260K")
    assert story(school, run, "unknown_step_types") == ["step_weights names types that no row has: guess"]


def test_distillation_goes_on_from_a_registered_adapter_with_a_registered_teacher(school, stories):
    lora = {"adapter": "student@1", "base": "nf4"}
    run, _ = trained(school, stories, method="distill", teacher="student@1", lora=lora, packing=True)
    assert (run["pins"]["teacher"]["name"], run["pins"]["adapter"]["name"]) == ("student@1", "student@1")
    assert numbers_of(school, run, 1)["teacher_divergence"] == pytest.approx(0, abs=1e-5), (
        "it begins as its own teacher"
    )
    assert "teacher_divergence" in run["training"]["metrics"]
    config = school.get("/api/v1/models/student/versions/2/files/adapter/adapter_config.json").json
    assert (config["r"], config["use_rslora"]) == (2, True)


def test_preferences_train_the_merged_model_and_rows_without_a_pair_are_counted(school):
    run, files = trained(school, "student@1", method="dpo", beta=0.5)
    assert not any(name.startswith("adapter/") for name in files)
    [train, *_] = story(school, run, "encoded")
    assert "rows have no rejected answer and are dropped" in train
    numbers = numbers_of(school, run, 1)
    assert numbers["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert {"reward_margin", "preference_accuracy"} <= set(numbers)


def test_version_without_an_adapter_is_none_to_go_on_from(school, stories):
    spec = {"dataset": "pairs", "base_model": str(stories), "train": {"lora": {"adapter": "student@3"}}}
    problem = school.post("/api/v1/runs", spec).problem(422)
    assert problem["errors"][0]["field"] == "train.lora.adapter"
    assert "student@3 has no adapter" in problem["detail"]


def test_rank_above_the_width_of_a_registered_model_is_refused_at_the_door(school):
    spec = {"dataset": "pairs", "base_model": "student@1", "train": {"lora": {"rank": 40}}}
    problem = school.post("/api/v1/runs", spec).problem(422)
    assert problem["errors"][0]["field"] == "train.lora.rank"
    assert "LoRA rank 40 exceeds k_proj, which is 64 x 32" in problem["detail"]


def test_registered_teacher_with_other_words_is_refused_by_a_run_from_a_preset(school):
    train = QUICK | {"method": "distill", "teacher": "student@1"}
    run = school.wait(school.start("pairs", "tiny", evaluate=None, train=train))
    assert (run["state"], run["step"]) == ("failed", 0)
    assert "train.teacher: teacher 'student@1' scores 512 words, the base model 263" in run["failure"]
