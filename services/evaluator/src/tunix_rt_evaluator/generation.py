"""Asking a model every question of an evaluation set, whoever computes its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tunix_rt_common.chat import ChatTemplate, prompt_text
from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.reports import ServedModel
from tunix_rt_common.specs import EvalSpec, SamplingSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import fits, generate
from tunix_rt_modeling.tokenizer import Tokenizer

OnProgress = Callable[[int, int], None]
"""Gets the numbers of answered and of all questions; what it raises ends the asking."""


@dataclass(frozen=True)
class Question:
    """A prompt in the tokens that training saw, and the seed of the draw."""

    token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Reply:
    """What followed a prompt; "length" when it ran out of tokens."""

    text: str
    finish_reason: Literal["stop", "length"]


Answer = Reply | str
"""A reply, or in words why there is none."""


class Generator(Protocol):
    """Whoever computes answers: the engine in this process, or a server elsewhere."""

    def answer(self, questions: Sequence[Question], on_progress: OnProgress) -> Sequence[Answer]:
        """Answer in the order of the questions."""


@dataclass(frozen=True)
class Respondent:
    """A model to be asked: how questions are put to it, and who computes its answers.

    `served` is whom a report names where that is not this process.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    generator: Generator
    served: ServedModel | None = None


def answer_all(
    respondent: Respondent, rows: Sequence[DatasetRow], sampling: SamplingSpec, on_progress: OnProgress
) -> list[Answer]:
    """The answer to each row's prompt, or in words why there is none.

    Each prompt draws from a seed of its own content, so its answer does not depend on which others are asked.
    """
    tokenizer = respondent.tokenizer
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    prompts = [tokenizer.encode(prompt_text(row.prompt, template)) for row in rows]
    fitting = [index for index, prompt in enumerate(prompts) if fits(respondent.config, prompt, sampling)]
    answers: list[Answer] = [
        f"the prompt's {len(prompt)} tokens and {sampling.max_new_tokens} new ones exceed the model's context of "
        f"{respondent.config.max_positions}: lower evaluate.sampling.max_new_tokens"
        for prompt in prompts
    ]
    questions = [Question(tuple(prompts[index]), int(rows[index].row_id[:7], 16)) for index in fitting]
    for index, answer in zip(fitting, respondent.generator.answer(questions, on_progress), strict=True):
        answers[index] = answer
    return answers


@dataclass(frozen=True)
class OwnEngine:
    """The weights in this process's memory, on its devices."""

    model: LoadedModel
    spec: EvalSpec

    def answer(self, questions: Sequence[Question], on_progress: OnProgress) -> Sequence[Answer]:
        """Generate in one batch that is refilled as rows end."""
        completions = generate(
            self.model,
            [question.token_ids for question in questions],
            self.spec.sampling,
            batch_size=self.spec.batch_size,
            cache_bytes=self.spec.cache_mib * 2**20 if self.spec.cache_mib else None,
            seeds=[question.seed for question in questions],
            on_progress=lambda counts: on_progress(counts.finished, len(questions)),
        )
        replies = {index: Reply(completion.text, completion.finish_reason) for index, completion in completions}
        return [replies[index] for index in range(len(questions))]
