"""Foreign records into traces: one pure function per format, in the table FORMATS.

Each takes one JSON object and returns a `Trace`, or raises `InvalidInput` with one line that names the field and never
repeats the input. `docs/trace-formats.md` describes the formats for users.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import MAX_STEP_CHARS, MAX_STEPS, Trace

Record = Mapping[str, Any]
TraceFormat = Literal["auto", "native", "gsm8k", "messages", "prompt-completion", "preference"]

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_ANSWER_MARK = re.compile(r"(?:####|(?:final answer|answer)\s*:)\s*(?P<answer>\S.*)", re.IGNORECASE)
_REPLY_KEYS = ("completion", "expected_answer", "answer")
_MAX_REPORTED = 3
_ADVICE = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of a trace: remove it, or move it under meta",
}


def import_trace(record: Record, trace_format: TraceFormat) -> Trace:
    """Return the trace that a record of this format holds.

    Raises:
        InvalidInput: the record does not fit the format, or a trace's limits.
    """
    return FORMATS[trace_format](record)


def import_auto(record: Record) -> Trace:
    """Import a record by the format that its keys suggest."""
    if "steps" in record or "final_answer" in record:
        return import_native(record)
    if "chosen" in record:
        return import_preference(record)
    if "messages" in record:
        return import_messages(record)
    if "question" in record:
        return import_gsm8k(record)
    if "prompt" in record:
        return import_prompt_completion(record)
    raise InvalidInput(
        "the keys fit no known format: a trace has prompt, steps, final_answer; others have messages, "
        "question and answer, prompt and completion, or prompt, chosen and rejected"
    )


def import_native(record: Record) -> Trace:
    """Import Tunix RT's own record unchanged; keys that it does not have are refused by name."""
    try:
        return Trace.model_validate(record)
    except ValidationError as error:
        raise InvalidInput(one_line(error), field=_path(error.errors()[0]["loc"])) from error


def import_gsm8k(record: Record) -> Trace:
    """Import a GSM8K row (Cobbe et al. 2021, arXiv:2110.14168): steps by line, then `#### ANSWER`.

    Calculator marks such as `<<48/2=24>>` are removed. The answer keeps its thousands commas.
    """
    *worked, last = _lines(_text(record, "answer")) or [""]
    if not last.startswith("####"):
        raise InvalidInput("answer: the last line is not '#### ANSWER': add it", field="answer")
    answer = last.removeprefix("####").strip()
    if not answer:
        raise InvalidInput("answer: nothing follows ####: add the final answer", field="answer")
    steps = _lines(_CALCULATOR_MARK.sub("", "\n".join(worked)))
    return _trace(
        record, ("question", "answer"), _text(record, "question"), _steps("calculation", steps, answer), answer
    )


def import_messages(record: Record) -> Trace:
    """Import a chat that ends with the assistant: its last message is the reply, all before it the prompt."""
    asked, reply = _chat(record.get("messages"), "messages")
    if not any(role == "user" for role, _ in asked):
        raise InvalidInput("messages: no user message before the reply: add the question", field="messages")
    steps, answer = _reasoning(reply, "messages")
    return _trace(record, ("messages",), _prompt(asked), steps, answer)


def import_prompt_completion(record: Record) -> Trace:
    """Import a prompt with its completion, or a row of an evaluation set with its expected answer."""
    key = next((key for key in _REPLY_KEYS if key in record), "completion")
    reply = _text(record, key)
    steps, answer = _reasoning(reply, key) if key == "completion" else (_steps("answer", [], reply), reply)
    return _trace(record, ("prompt", key), _text(record, "prompt"), steps, answer)


def import_preference(record: Record) -> Trace:
    """Import a prompt with the answer that people chose and the one that they rejected.

    Each side is text, or a chat that ends with the assistant's reply. What stands before the replies is the same on
    both sides; it is the prompt where none is given.
    """
    (asked, chosen), (also_asked, rejected) = _side(record, "chosen"), _side(record, "rejected")
    if asked != also_asked:
        raise InvalidInput("rejected: answers another prompt than chosen: give two replies to one", field="rejected")
    given = _given_prompt(record) or asked or _text(record, "prompt")
    if asked and given.strip() != asked.strip():
        raise InvalidInput("prompt: is not what chosen and rejected reply to: leave one out", field="prompt")
    steps, answer = _reasoning(chosen, "chosen")
    other = dict(zip(("steps", "final_answer"), _reasoning(rejected, "rejected"), strict=True))
    return _trace(record, ("prompt", "chosen", "rejected"), given, steps, answer, rejected=other)


FORMATS: Mapping[str, Callable[[Record], Trace]] = {
    "auto": import_auto,
    "native": import_native,
    "gsm8k": import_gsm8k,
    "messages": import_messages,
    "prompt-completion": import_prompt_completion,
    "preference": import_preference,
}


def one_line(error: ValidationError) -> str:
    """Return pydantic's findings as `field: message; …`: three at most, and nothing of the input's values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{_path(item['loc'])}: {_advice(item['type'], item['msg'])}" for item in found[:_MAX_REPORTED]]
    if len(found) > _MAX_REPORTED:
        told.append(f"and {len(found) - _MAX_REPORTED} more")
    return "; ".join(told)


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:80] for part in location) or "record"


def _advice(kind: str, message: str) -> str:
    return _ADVICE.get(kind, message.removeprefix("Value error, ")[:200])


def _trace(
    record: Record,
    used: tuple[str, ...],
    prompt: str,
    steps: list[dict[str, object]],
    answer: str,
    **more: object,
) -> Trace:
    """Build the trace; keys of the record that no field took become its meta."""
    meta = {key: value for key, value in record.items() if key not in (*used, "meta")}
    given = record.get("meta", {})
    if not isinstance(given, dict):
        raise InvalidInput("meta: is not an object", field="meta")
    return import_native(
        {"prompt": prompt, "steps": steps, "final_answer": answer, "meta": {**meta, **given} or None, **more},
    )


def _text(record: Record, key: str) -> str:
    if key not in record:
        raise InvalidInput(f"{key}: is missing", field=key)
    if not isinstance(record[key], str):
        raise InvalidInput(f"{key}: is not text: write it as a string", field=key)
    if not record[key].strip():
        raise InvalidInput(f"{key}: is blank: give it some text", field=key)
    return str(record[key])


def _side(record: Record, key: str) -> tuple[str, str]:
    """One side of a preference: what it replies to, "" where that is not said, and the reply."""
    if not isinstance(record.get(key), list):
        return "", _text(record, key)
    asked, reply = _chat(record[key], key)
    return _prompt(asked), reply


def _given_prompt(record: Record) -> str:
    """The prompt as text, or as the messages before the reply; "" where the record has none."""
    if isinstance(record.get("prompt"), list):
        turns = [_turn(message, f"prompt.{index}") for index, message in enumerate(record["prompt"])]
        return _prompt(turns)
    return _text(record, "prompt") if "prompt" in record else ""


def _chat(messages: object, field: str) -> tuple[list[tuple[str, str]], str]:
    """The turns before the assistant's last message, and that message."""
    if not isinstance(messages, list) or not messages:
        raise InvalidInput(f"{field}: is not a list of {{role, content}}: give at least two", field=field)
    *asked, (role, reply) = [_turn(message, f"{field}.{index}") for index, message in enumerate(messages)]
    if role != "assistant":
        raise InvalidInput(f"{field}: the last one is not the assistant's: end with the reply", field=field)
    return asked, reply


def _turn(message: object, path: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise InvalidInput(f"{path}: is not an object with role and content", field=path)
    extra = next((str(key) for key in message if key not in ("role", "content") and message[key] is not None), None)
    if extra is not None:
        raise InvalidInput(f"{_path((path, extra))}: is not supported: keep role and content alone", field=path)
    if message.get("role") not in ("system", "user", "assistant"):
        raise InvalidInput(f"{path}.role: is unknown: use system, user or assistant", field=f"{path}.role")
    return message["role"], _content(message.get("content"), f"{path}.content")


def _content(content: object, path: str) -> str:
    """Return text given as a string, or as a list of `{"type": "text", "text": …}` parts."""
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else [content]
    texts: list[Any] = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{path}: is neither text nor a list of text parts: remove other parts", field=path)
    return "".join(texts)


def _prompt(turns: list[tuple[str, str]]) -> str:
    """Join the turns before the reply; speakers are named only where there is more than one question."""
    several = sum(role != "system" for role, _ in turns) > 1
    texts = [content.rpartition("</think>")[2].strip() if role == "assistant" else content for role, content in turns]
    labels = [f"{role.capitalize()}: " if several and role != "system" else "" for role, _ in turns]
    return "\n\n".join(label + text for label, text in zip(labels, texts, strict=True) if text.strip())


def _reasoning(reply: str, field: str) -> tuple[list[dict[str, object]], str]:
    """Split a reply into steps and answer: at its think block, or else before its last line."""
    inside, closed, after = reply.partition("</think>")
    before, opened, thought = inside.partition("<think>")
    if opened and not closed:
        raise InvalidInput(f"{field}: <think> is never closed: add </think> before the answer", field=field)
    if not closed:
        return _by_lines(reply, field)
    answer = after.strip() if not opened else f"{before}{after}".strip()
    if not answer:
        raise InvalidInput(f"{field}: nothing follows </think>: add the answer", field=field)
    return _steps("reasoning", _paragraphs(thought if opened else before), answer), answer


def _by_lines(reply: str, field: str) -> tuple[list[dict[str, object]], str]:
    *worked, last = _lines(reply) or [""]
    if not last:
        raise InvalidInput(f"{field}: the reply is blank: give it some text", field=field)
    marked = _ANSWER_MARK.fullmatch(last)
    answer = marked["answer"] if marked else last
    return _steps("reasoning", worked, answer), answer


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _paragraphs(text: str) -> list[str]:
    """Split at blank lines, or at every line where there are none."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return paragraphs if len(paragraphs) > 1 else _lines(text)


def _steps(kind: str, contents: list[str], answer: str) -> list[dict[str, object]]:
    """Number the steps; without any, the answer is the one step. None exceeds a step's length."""
    if not contents:
        kind, contents = "answer", [answer]
    pieces = [piece for content in contents for piece in _pieces(content)]
    if len(pieces) > MAX_STEPS:
        pieces = list(_pieces("\n".join(contents)))
    return [{"i": index, "type": kind, "content": piece} for index, piece in enumerate(pieces)]


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most MAX_STEP_CHARS, at white space where there is some."""
    while len(text) > MAX_STEP_CHARS:
        cut = max(text.rfind(space, 1, MAX_STEP_CHARS) for space in (" ", "\n"))
        end = cut if cut > 0 else MAX_STEP_CHARS
        yield text[:end]
        text = text[end:].lstrip()
    if text:
        yield text
