import threading
from functools import partial

import jax
import numpy as np
import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import SamplingSpec
from tunix_rt_modeling import batchplan
from tunix_rt_modeling.batching import Counts
from tunix_rt_modeling.batchplan import Request, peak_bytes, plan_rows
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import Completion, fits, generate
from tunix_rt_modeling.transformer import logits

STARTS = ["Once upon a time", "Tom", "The dog ran to the big red", "Lily was", "One day a bird saw the sun and it was"]


def run(model: LoadedModel, prompts: list[list[int]], sampling: SamplingSpec, **options: object) -> list[Completion]:
    found = dict(generate(model, prompts, sampling, **options))
    return [found[index] for index in range(len(prompts))]


def texts(completions: list[Completion]) -> set[str]:
    return {completion.text for completion in completions}


@pytest.fixture(scope="module")
def prompts(stories: LoadedModel) -> list[list[int]]:
    return [stories.tokenizer.encode(text, add_special=True) for text in STARTS]


def test_completions_do_not_depend_on_their_batch(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=3)
    together = run(stories, prompts, sampling, batch_size=4, seeds=[7, 8, 9, 10, 11])
    alone = [run(stories, [prompt], sampling, seeds=[7 + i])[0] for i, prompt in enumerate(prompts)]
    assert [completion.token_ids for completion in together] == [completion.token_ids for completion in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_each_seed_draws_its_own_completion(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24, temperature=1.0)
    same, other = [5, 5, 5, 5], [5, 5, 5, 6]
    first, second = (run(stories, prompts[:1] * 4, sampling, seeds=seeds) for seeds in (same, other))
    assert len(texts(first)) == 1
    assert texts(second[:3]) == texts(first)
    assert texts(second[3:]) != texts(first)
    assert texts(run(stories, prompts[:1] * 4, sampling.model_copy(update={"seed": 1}), seeds=same)) != texts(first)
    assert len(texts(run(stories, prompts[:1] * 4, sampling))) == 4


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
    kept = [(before, after) for before, after in zip(free, stopped, strict=True) if after.finish_reason == "length"]
    assert kept
    assert all(before.token_ids == after.token_ids for before, after in kept)


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
        generate(stories, [[1], [1] * 13], sampling)
    with pytest.raises(InvalidInput, match="prompt 0 is empty"):
        generate(stories, [[]], sampling)
    with pytest.raises(InvalidInput, match=r"prompt 0 holds a token id outside 0\.\.511"):
        generate(stories, [[512]], sampling)
    with pytest.raises(InvalidInput, match="2 seeds for 1 prompts"):
        generate(stories, [[1]], sampling, seeds=[1, 2])


def test_log_probabilities_are_the_models_own_whatever_the_draw(stories: LoadedModel) -> None:
    sampling = SamplingSpec(max_new_tokens=40, temperature=0.5, top_k=20, top_p=0.9)
    (completion,) = run(stories, [[1]], sampling)
    ids = [1, *completion.token_ids]
    scores = jax.nn.log_softmax(logits(stories.config, stories.params, np.array([ids]))[0])
    expected = np.asarray(scores)[np.arange(40), ids[1:]]
    np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_samples_of_one_prompt_read_it_once(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24, temperature=1.0)
    counted: list[Counts] = []
    many = run(stories, [*prompts[2:3] * 7, prompts[0]], sampling, batch_size=3, on_progress=counted.append)
    assert counted[-1].prompt_tokens == len(prompts[2]) + len(prompts[0])
    assert len(texts(many)) == 8
    assert many[5].text == run(stories, [prompts[2]], sampling, seeds=[5])[0].text


def test_progress_counts_and_what_it_raises_ends_the_generation(stories: LoadedModel, prompts: list[list[int]]) -> None:
    class Enough(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def leave_late(counts: Counts) -> None:
        seen.append((counts.finished, counts.drawn_tokens))
        if counts.finished >= 2:
            raise Enough

    with pytest.raises(Enough):
        run(stories, prompts, SamplingSpec(max_new_tokens=40), batch_size=2, on_progress=leave_late)
    assert seen == sorted(seen)
    assert seen[0] == (0, 0)
    assert seen[-1][0] < len(prompts)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchplan, "_cores", lambda: 2)


def questions(count: int) -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(3, 512, size).tolist() for size in random.integers(4, 30, count)]


@pytest.mark.usefixtures("two_cores")
def test_a_lane_for_each_core_draws_what_one_batch_does_and_the_same_each_time(stories: LoadedModel) -> None:
    sampling = SamplingSpec(max_new_tokens=33, temperature=1.0)
    counted: list[Counts] = []
    prompts = questions(48)
    first, second = (run(stories, prompts, sampling, batch_size=16, on_progress=counted.append) for _ in range(2))
    assert first == second
    ended = sum(completion.finish_reason == "stop" for completion in first)
    assert counted[-1] == Counts(48, sum(map(len, prompts)), sum(len(one.token_ids) for one in first) + ended)
    in_one = run(stories, prompts, sampling, batch_size=15)
    assert [one.token_ids for one in first] == [one.token_ids for one in in_one]


@pytest.mark.usefixtures("two_cores")
def test_lanes_end_when_nobody_wants_more(stories: LoadedModel) -> None:
    before = threading.active_count()
    found = generate(stories, questions(48), SamplingSpec(max_new_tokens=40), batch_size=16)
    next(found)
    assert threading.active_count() > before
    found.close()
    assert threading.active_count() == before


def test_more_cores_than_prompts_leave_some_idle(stories: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchplan, "_cores", lambda: 16)
    prompts = [[1, number] for number in range(3, 18)] * 9
    drawn = run(stories, prompts, SamplingSpec(max_new_tokens=4), batch_size=len(prompts))
    assert len(texts(drawn)) == len(texts(drawn[:15]))


@pytest.mark.usefixtures("two_cores")
def test_samples_of_one_prompt_read_it_once_whatever_the_cores(stories: LoadedModel) -> None:
    counted: list[Counts] = []
    run(stories, [[1, 5, 9]] * 16, SamplingSpec(max_new_tokens=8), batch_size=16, on_progress=counted.append)
    assert counted[-1].prompt_tokens == 3


def test_other_prompts_of_other_lengths_compile_nothing(stories: LoadedModel) -> None:
    compiled = 0

    def count(event: str, *_: object, **__: object) -> None:
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    def lengths(seed: int) -> list[list[int]]:
        random = np.random.default_rng(seed)
        return [random.integers(3, 512, size).tolist() for size in random.permutation(np.arange(10, 60))]

    sampling = SamplingSpec(max_new_tokens=100)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        run(stories, lengths(0), sampling, batch_size=4)
        first, compiled = compiled, 0
        run(stories, lengths(1), sampling, batch_size=4)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert compiled == 0
    assert first < 60


def test_memory_that_holds_few_rows_runs_few_at_once(stories: LoadedModel, prompts: list[list[int]]) -> None:
    sampling = SamplingSpec(max_new_tokens=24)
    requests = [Request(tuple(prompt), 0, 24) for prompt in prompts]
    needed = peak_bytes(stories.config, 2, 40, 16)
    assert plan_rows(stories.config, requests, 64, 2**30) == 8
    assert plan_rows(stories.config, requests, 3, 2**30) == 3
    assert plan_rows(stories.config, requests, 64, needed) == 2
    squeezed = run(stories, prompts, sampling, cache_bytes=needed)
    assert [one.text for one in squeezed] == [one.text for one in run(stories, prompts, sampling)]


def test_memory_for_not_even_one_row_is_refused_with_the_setting_that_would_fit(stories: LoadedModel) -> None:
    allowed = peak_bytes(stories.config, 1, 128, 5)
    sampling = SamplingSpec(max_new_tokens=500)
    with pytest.raises(InvalidInput) as refused:
        generate(stories, [[1] * 5], sampling, cache_bytes=allowed)
    needed = peak_bytes(stories.config, 1, 504, 5)
    assert f"needs {needed:,} bytes of cache, and {allowed:,} are there" in str(refused.value)
    assert "lower max_new_tokens to 124" in str(refused.value)
    generate(stories, [[1] * 5], sampling.model_copy(update={"max_new_tokens": 124}), cache_bytes=allowed)
    with pytest.raises(InvalidInput, match="shorten the prompts"):
        generate(stories, [[1] * 5], sampling, cache_bytes=1000)


def test_no_prompts_give_no_completions(stories: LoadedModel) -> None:
    assert run(stories, [], SamplingSpec()) == []
