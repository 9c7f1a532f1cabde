"""Asking a model every question of an evaluation set."""

from collections.abc import Callable, Sequence

from tunix_rt_common.chat import ChatTemplate, prompt_text
from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.specs import EvalSpec
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import Completion, fits, generate

Answer = Completion | str


def answer_all(
    model: LoadedModel, rows: Sequence[DatasetRow], spec: EvalSpec, on_progress: Callable[[int, int], None]
) -> list[Answer]:
    """The completion of each row's prompt, or in words why there is none.

    Each prompt draws from a seed of its own content, so its completion does not depend on which others are asked.
    """
    tokenizer = model.tokenizer
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    prompts = [tokenizer.encode(prompt_text(row.prompt, template)) for row in rows]
    fitting = [index for index, prompt in enumerate(prompts) if fits(model.config, prompt, spec.sampling)]
    answers: list[Answer] = [
        f"the prompt's {len(prompt)} tokens and {spec.sampling.max_new_tokens} new ones exceed the model's context of "
        f"{model.config.max_positions}: lower evaluate.sampling.max_new_tokens"
        for prompt in prompts
    ]
    completions = generate(
        model.config,
        model.params,
        tokenizer,
        [prompts[index] for index in fitting],
        spec.sampling,
        batch_size=spec.batch_size,
        seeds=[int(rows[index].row_id[:7], 16) for index in fitting],
        on_batch=on_progress,
    )
    for position, completion in completions:
        answers[fitting[position]] = completion
    return answers
