import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tunix_rt_common.specs import SamplingSpec
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import generate
from tunix_rt_modeling.transformer import logits, parameter_count


@pytest.fixture(scope="module")
def reference(stories_directory: Path) -> Any:
    return json.loads((stories_directory / "reference.json").read_text())


def test_pretrained_model_tells_its_story_word_for_word(stories: LoadedModel, reference: Any) -> None:
    ids = reference["greedy_ids_from_bos"]
    sampling = SamplingSpec(max_new_tokens=len(ids) - 1)
    ((index, completion),) = generate(stories, [ids[:1]], sampling)
    assert index == 0
    assert list(completion.token_ids) == ids[1:]
    assert completion.text == reference["greedy_text"]
    assert completion.finish_reason == "length"


def test_scores_are_those_of_the_float64_reference(stories: LoadedModel, reference: Any) -> None:
    ids = np.array([reference["greedy_ids_from_bos"]])
    scores = jax.jit(partial(logits, stories.config))(stories.params, ids[:, :-1])
    np.testing.assert_allclose(scores[0, 0], reference["logits_step0_all"], atol=1e-4)
    np.testing.assert_allclose(scores[0, 10], reference["logits_step10_all"], atol=1e-4)
    logprobs = np.take_along_axis(np.asarray(jax.nn.log_softmax(scores[0])), ids[0, 1:, None], axis=1)[:, 0]
    np.testing.assert_allclose(logprobs, reference["greedy_token_logprobs"], atol=1e-4)


def test_tied_embeddings_count_once(stories: LoadedModel) -> None:
    assert parameter_count(stories.params) == 260_032
