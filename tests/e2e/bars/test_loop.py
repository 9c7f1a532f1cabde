"""The whole loop in its short form: everything real, but few steps and few prompts."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.e2e.bars.cluster import Cluster
from tests.e2e.bars.server import Up, build_sums, small_run, wait_for_end

from tunix_rt.errors import ApiError
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.transformer import logits


@pytest.mark.timeout(280)
def test_a_run_ends_registered_promoted_and_pullable(world: Up | Cluster, tmp_path: Path):
    with world.client() as client:
        build_sums(client)
        run = wait_for_end(client, client.runs.create(small_run(30)).run_id)
        assert (run.state, run.decision, run.model_version) == ("succeeded", "GO", 1)
        assert run.training["metrics"]["validation_loss"] < run.training["metrics"]["base_validation_loss"]
        metrics = client.runs.metrics(run.run_id)
        assert [metric.step for metric in metrics] == list(range(31))
        assert "step 30/30" in "".join(log.text for log in client.runs.logs(run.run_id))
        version = client.models.version("sums", "champion")
        client.models.pull(version, tmp_path / "model")
        worse = wait_for_end(client, client.runs.create(small_run(1)).run_id)
        assert (worse.state, worse.model_version) == ("succeeded", 2)
        assert client.models.get("sums").aliases == {"champion": 1}
        with pytest.raises(ApiError) as refused:
            client.models.promote("sums", 2, alias="champion", expected_version=1)
        assert refused.value.status == 403
        with pytest.raises(ApiError) as moved:
            client.models.promote("sums", 2, alias="champion", expected_version=None)
        assert moved.value.status == 409
    pulled = huggingface.load(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    ids = np.array([pulled.tokenizer.encode("<|user|>12+34=<|assistant|>")])
    assert np.isfinite(np.asarray(logits(pulled.config, pulled.params, ids))).all()
    assert np.array_equal(stored["model.norm.weight"], np.asarray(pulled.params["norm"]["scale"]))


@pytest.mark.timeout(280)
def test_the_same_spec_ends_with_the_same_weights_and_scores(up: Up):
    with up.client() as client:
        build_sums(client)
        first = client.runs.create(small_run(12, model_name="one")).run_id
        second = client.runs.create(small_run(12, model_name="two")).run_id
        runs = [wait_for_end(client, first), wait_for_end(client, second)]
        scores = [client.evaluations.get(run.evaluation_id).score for run in runs]
    assert runs[0].training["manifest_sha256"] == runs[1].training["manifest_sha256"]
    assert scores[0] == scores[1]
