import pytest


@pytest.fixture
def champion(command, platform, run_id):
    """sums@1, promoted by its run."""
    platform.finish_training(run_id)
    platform.finish_judging(run_id, "GO")
    assert command("runs", "watch", run_id).code == 0
    return "sums@champion"


@pytest.fixture
def refused(command, platform, champion):
    """sums@2, with a verdict of NO-GO."""
    arguments = ("--dataset", "sums", "--base-model", "tiny", "--json")
    run_id = command("runs", "create", *arguments).json["run_id"]
    platform.finish_training(run_id)
    platform.finish_judging(run_id, "NO-GO")
    assert command("runs", "watch", run_id).code == 0
    return 2


def test_promoted_model_is_listed_with_its_alias(command, champion):
    assert command("models", "list", "--json").json == [
        {"name": "sums", "latest_version": 1, "aliases": {"champion": 1}}
    ]
    [version] = command("models", "versions", "sums", "--json").json
    assert (version["version"], version["decision"], version["aliases"]) == (1, "GO", ["champion"])


@pytest.mark.parametrize("reference", ["sums@champion", "sums@1"])
def test_pulled_folder_holds_every_file(command, champion, platform, tmp_path, reference):
    folder = tmp_path / "new" / "sums"
    pulled = command("models", "pull", reference, str(folder), "--json").json
    assert pulled["folder"] == str(folder)
    for entry in pulled["version"]["files"]:
        with platform.store.open(entry["sha256"]) as blob:
            assert (folder / entry["path"]).read_bytes() == blob.read()
    assert [path.name for path in folder.parent.iterdir()] == ["sums"]


def test_pull_into_a_full_folder_needs_force(command, champion, tmp_path):
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    refused = command("models", "pull", champion, str(folder))
    assert refused.code == 2
    assert "--force" in refused.err
    assert (folder / "mine.txt").exists()
    assert command("models", "pull", champion, str(folder), "--force").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights"]


def test_reference_without_a_version_is_refused(command, tmp_path):
    outcome = command("models", "pull", "sums", str(tmp_path / "sums"))
    assert outcome.code == 2
    assert "sums@champion" in outcome.err


def test_version_without_a_passing_verdict_is_not_promoted(command, refused):
    outcome = command("models", "promote", "sums", str(refused))
    assert outcome.code == 2
    assert "NO-GO" in outcome.err
    assert command("models", "list", "--json").json[0]["aliases"] == {"champion": 1}


def test_promotion_with_a_wrong_expectation_is_a_conflict(command, champion):
    outcome = command("models", "promote", "sums", "1", "--expected-version", "0")
    assert outcome.code == 2
    assert "points to version 1" in outcome.err


def test_good_version_takes_another_free_alias(command, champion):
    moved = command("models", "promote", "sums", "1", "--alias", "stable", "--json")
    assert moved.json == {"name": "sums", "alias": "stable", "version": 1}


def test_leaderboard_ranks_registered_versions(command, refused):
    rows = command("leaderboard", "--json").json
    assert [(row["rank"], row["model"], row["decision"]) for row in rows] == [(1, "sums", "GO"), (2, "sums", "NO-GO")]
    assert "66.7% [20.0%, 90.0%]" in command("leaderboard").out


def test_evaluation_shows_wrong_answers_and_nothing_that_acts(command, champion):
    shown = command("evaluations", "show", "latest", "--items", "wrong")
    assert "[bold]\\x1b[31m9" in shown.out
    assert "item-0" not in shown.out
    assert "\x1b" not in shown.out


def test_evaluation_as_json_holds_verdict_and_asked_items(command, champion):
    [listed] = command("evaluations", "list", "--json").json
    shown = command("evaluations", "show", listed["evaluation_id"], "--items", "correct", "--json").json
    assert shown["verdict"]["decision"] == "GO"
    assert [item["item_id"] for item in shown["items"]] == ["item-0", "item-2"]
