from functools import partial

import jax
import numpy as np
import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import SamplingSpec
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import Completion, fits, generate
from tunix_rt_modeling.transformer import logits

STARTS = ["Once upon a time", "Tom", "The dog ran to the big red", "Lily was", "One day a bird saw the sun and it was"]


def run(model: LoadedModel, prompts: list[list[int]], sampling: SamplingSpec, **options: object) -> list[Completion]:
    found = dict(generate(model.config, model.params, model.tokenizer, prompts, sampling, **options))
    return [found[index] for index in range(len(prompts))]


@pytest.fixture(scope="module")
def prompts(stories: LoadedModel) -> list[list[int]]:
    return [stories.tokenizer.encode(text, add_special=True) for text in STARTS]


def test_completions_do_not_depend_on_their_batch(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=3)
    together = run(stories, prompts, sampling, batch_size=4, seeds=[7, 8, 9, 10, 11])
    alone = [run(stories, [prompt], sampling, seeds=[7 + i])[0] for i, prompt in enumerate(prompts)]
    assert together == alone


def test_each_seed_draws_its_own_completion(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24, temperature=1.0)
    same, other = [5, 5, 5, 5], [5, 5, 5, 6]
    first, second = (run(stories, prompts[:1] * 4, sampling, seeds=seeds) for seeds in (same, other))
    assert len(set(first)) == 1
    assert second[:3] == first[:3]
    assert second[3] != first[3]
    assert run(stories, prompts[:1] * 4, sampling.model_copy(update={"seed": 1}), seeds=same) != first
    assert len(set(run(stories, prompts[:1] * 4, sampling))) == 4


def test_greedy_across_a_growing_cache_is_the_argmax_of_uncached_scores(stories: LoadedModel) -> None:
    prompt = [1, *np.random.default_rng(0).integers(3, 512, 99).tolist()]
    (completion,) = run(stories, [prompt], SamplingSpec(max_new_tokens=60))
    ids = np.array([[*prompt, *completion.token_ids]])
    scores = np.asarray(jax.jit(partial(logits, stories.config))(stories.params, ids))
    assert scores[0, 99:-1].argmax(-1).tolist() == list(completion.token_ids)


def test_text_ends_before_a_stop_string_that_spans_tokens(stories: LoadedModel) -> None:
    free = run(stories, [[1]], SamplingSpec(max_new_tokens=60))[0]
    stop = "Lily. She lov"
    (stopped,) = run(stories, [[1]], SamplingSpec(max_new_tokens=60, stop=("never said", stop)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert stop in stories.tokenizer.decode(stopped.token_ids)
    assert stop not in stories.tokenizer.decode(stopped.token_ids[:-1])


def test_stopped_rows_leave_the_others_as_they_are(stories: LoadedModel, prompts: list[list[int]]) -> None:
    free = run(stories, prompts[:4], SamplingSpec(max_new_tokens=80))
    stopped = run(stories, prompts[:4], SamplingSpec(max_new_tokens=80, stop=(free[1].text[20:26],)))
    assert stopped[1].text == free[1].text[: free[1].text.index(free[1].text[20:26])]
    kept = [after == before for after, before in zip(stopped, free, strict=True) if after.finish_reason == "length"]
    assert all(kept)


def test_end_of_sequence_token_ends_the_row_and_is_not_part_of_it(stories: LoadedModel) -> None:
    free = run(stories, [[1]], SamplingSpec(max_new_tokens=24))[0]
    eos = free.token_ids[10]
    length = free.token_ids.index(eos)
    ending = LoadedModel(stories.config.model_copy(update={"eos_token_ids": (eos,)}), stories.params, stories.tokenizer)
    (completion,) = run(ending, [[1]], SamplingSpec(max_new_tokens=24))
    assert completion.token_ids == free.token_ids[:length]
    assert completion.finish_reason == "stop"


def test_prompts_are_checked_before_anything_is_generated(stories: LoadedModel) -> None:
    sampling = SamplingSpec(max_new_tokens=500)
    assert fits(stories.config, [1] * 12, sampling)
    assert not fits(stories.config, [1] * 13, sampling)
    with pytest.raises(InvalidInput, match=r"prompt 1 has 13 tokens and asks for 500 more.*holds 512"):
        generate(stories.config, stories.params, stories.tokenizer, [[1], [1] * 13], sampling)
    with pytest.raises(InvalidInput, match="prompt 0 is empty"):
        generate(stories.config, stories.params, stories.tokenizer, [[]], sampling)
    with pytest.raises(InvalidInput, match=r"prompt 0 holds a token id outside 0\.\.511"):
        generate(stories.config, stories.params, stories.tokenizer, [[512]], sampling)
    with pytest.raises(InvalidInput, match="2 seeds for 1 prompts"):
        generate(stories.config, stories.params, stories.tokenizer, [[1]], sampling, seeds=[1, 2])


def test_progress_counts_finished_prompts(stories: LoadedModel, prompts: list[list[int]]) -> None:
    seen: list[tuple[int, int]] = []
    run(stories, prompts, SamplingSpec(max_new_tokens=24), batch_size=2, on_batch=lambda *counts: seen.append(counts))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_prompts_give_no_completions(stories: LoadedModel) -> None:
    assert run(stories, [], SamplingSpec()) == []
