"""Traces as the text that a model reads: chat templates, prompts, and what of a conversation is trained on.

Trainer, evaluator and preview share this module, so a model is always asked in the words it was trained on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn, Self

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import Target
from tunix_rt_common.traces import Trace

MAX_RENDERED_CHARS = 32_000_000
MAX_TEMPLATE_STEPS = 100_000

DEFAULT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- ('' if loop.first else '\\n') + 'Question: ' + message.content + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- 'Answer:\\n' + message.content + eos_token }}
    {%- else %}
        {{- message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Answer:\\n' }}
{%- endif %}"""

_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
_FIXED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
_PROBE = "\ue000"


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation; the loss counts its tokens when it is `trained`.

    `step_type` is set where the piece is one step of the reasoning.
    """

    text: str
    trained: bool
    step_type: str | None = None


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with the special tokens it may name ("" where the tokenizer has none).

    It runs as in transformers (`apply_chat_template`): same white-space rules, `raise_exception`, `tojson`, loop
    controls, `{% generation %}`. `strftime_now` always says 26 July 2024, so prompts do not change overnight. A prompt
    that spells out a special token becomes that token, there as here.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""

    @classmethod
    def of(cls, source: str | None, bos_token: str | None, eos_token: str | None) -> Self:
        """What a tokenizer brings; the default template where it has none."""
        return cls(DEFAULT_TEMPLATE if source is None else source, bos_token or "", eos_token or "")

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Return the text of the messages (`role`, `content`), ending where the assistant's reply begins if asked.

        Raises:
            InvalidInput: the template is malformed, raises, leaves the sandbox, takes more than MAX_TEMPLATE_STEPS
                loop rounds and macro calls, or writes more than MAX_RENDERED_CHARS characters. Memory that a single
                filter or string method takes is not bounded here: the process's own limit is.
        """
        variables = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "tools": None,
            "documents": None,
        }
        try:
            sandbox = _Sandbox()
            template = jinja2.Template.from_code(sandbox, _compiled(self.source), sandbox.make_globals(None))
            return _written(template, variables)
        except _TEMPLATE_FAILURES as error:
            raise InvalidInput(
                f"the chat template failed: {_one_line(error)}; correct chat_template in the model's "
                "tokenizer_config.json, or remove it to use the plain default",
                field="chat_template",
            ) from error


def completion(trace: Trace, target: Target) -> str:
    """Return what the model is to write: reasoning in a think block and the answer ("trace"), or the answer alone."""
    if target == "answer":
        return trace.final_answer
    return f"<think>\n{_reasoning(trace)}\n</think>\n{trace.final_answer}"


def prompt_text(prompt: str, template: ChatTemplate) -> str:
    """Return the prompt as the model reads it, up to the first character of its reply.

    A think tag that the template opens, or opens and closes, on the assistant's behalf is left out: the model writes
    its own, and the same prompt serves both targets.
    """
    messages = [{"role": "user", "content": prompt}]
    question = template.render(messages, add_generation_prompt=False)
    opened = template.render(messages, add_generation_prompt=True)
    if not opened.startswith(question):
        return opened
    return question + _without_think(opened[len(question) :])


def conversation(trace: Trace, target: Target, template: ChatTemplate) -> tuple[Segment, ...]:
    """Return the prompt (untrained) and the reply with its end-of-turn token (trained).

    The reply is the template's rendering of it. Where the template drops reasoning from replies, as some do with the
    history of a chat, it is the completion itself with the template's ending. A template that ends replies with
    nothing gets `eos_token`.

    Raises:
        InvalidInput: the template fails, or its rendering of the whole does not begin with that of the prompt.
    """
    prompt = prompt_text(trace.prompt, template)
    wanted = completion(trace, target)
    reply = _reply(trace.prompt, prompt, wanted, template)
    ending = _ending(template)
    answer = trace.final_answer.strip() + ending
    reasoned = target == "answer" or _reasoning(trace).strip() in reply.removesuffix(answer)
    if not (reasoned and reply.endswith(answer)):
        reply = wanted + ending
    closing = "" if ending.strip() else template.eos_token
    return Segment(prompt, trained=False), Segment(reply + closing, trained=True)


def end_of_turn(template: ChatTemplate) -> str:
    """Return what replies end with, white space aside: the template's own ending, or `eos_token` where it has none."""
    return _ending(template).strip() or template.eos_token


def split_by_steps(reply: Segment, trace: Trace, target: Target) -> tuple[Segment, ...]:
    """Return the reply of `conversation` in pieces: each step by itself, and what is before, between and after them."""
    if target == "answer":
        return (reply,)
    reasoning = _reasoning(trace)
    said = reasoning.strip()
    begin = reply.text.index(said)
    pieces, end, offset = [], 0, begin - reasoning.index(said)
    for step in trace.steps:
        start, stop = max(offset, begin), min(offset + len(step.content), begin + len(said))
        if start < stop:
            pieces += [replace(reply, text=reply.text[end:start])]
            pieces += [replace(reply, text=reply.text[start:stop], step_type=step.type)]
            end = stop
        offset += len(step.content) + 1
    return tuple(piece for piece in (*pieces, replace(reply, text=reply.text[end:])) if piece.text)


def _reasoning(trace: Trace) -> str:
    return "\n".join(step.content for step in trace.steps)


def _without_think(header: str) -> str:
    closed = header.rstrip().removesuffix("</think>").rstrip()
    return closed.removesuffix("<think>") if closed.endswith("<think>") else header


def _reply(question: str, prompt: str, answer: str, template: ChatTemplate) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    whole = template.render(messages, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InvalidInput(
            "the chat template cannot be split: a conversation does not begin with its own generation prompt; make "
            "the template write the same text before a reply as add_generation_prompt does, or remove it to use the "
            "plain default",
            field="chat_template",
        )
    return whole[len(prompt) :]


@lru_cache(maxsize=16)
def _ending(template: ChatTemplate) -> str:
    """What the template writes after a reply, found by rendering a reply that occurs nowhere else."""
    return _reply("", prompt_text("", template), _PROBE, template).rpartition(_PROBE)[2]


class _GenerationTag(Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, with which templates mark replies, and renders what is inside."""

    tags = {"generation"}  # noqa: RUF012 - jinja types it as a mutable set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering: it counts the template's steps and refuses operators that blow up."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
        self.filters["tojson"] = _tojson
        self.globals.update(raise_exception=_raise_exception, strftime_now=_FIXED_DATE.strftime)
        self.steps_left = MAX_TEMPLATE_STEPS

    def count_step(self) -> None:
        """Called by the compiled template in every round of a loop and in every macro."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_TEMPLATE_STEPS} loop rounds")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with modest numbers only: a product of text, or a power, can fill the memory at once."""
        if operator == "**" or not all(isinstance(side, int | float) and abs(side) < 2**32 for side in (left, right)):
            raise SecurityError(f"it uses {operator} on text, lists or huge numbers")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=16)
def _compiled(source: str) -> CodeType:
    sandbox = _Sandbox()
    tree = sandbox.parse(source)
    repeated: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
        *tree.find_all(nodes.For),
        *tree.find_all(nodes.Macro),
        *tree.find_all(nodes.CallBlock),
    ]
    for block in repeated:
        counter = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
        block.body.insert(0, nodes.ExprStmt(counter, lineno=block.lineno))
    return sandbox.compile(tree)


def _written(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    pieces, size = [], 0
    for piece in template.generate(variables):
        size += len(piece)
        if size > MAX_RENDERED_CHARS:
            raise SecurityError(f"it writes more than {MAX_RENDERED_CHARS} characters")
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _one_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split())[:300] or type(error).__name__
