"""Answers from an OpenAI-compatible server such as vLLM or SGLang: `POST URL/completions`.

Prompts go out as token ids, so that the server reads exactly what training read: no chat template and no beginning of
its own. An event loop lives for the length of one evaluation, because it alone can bound a whole exchange, from the
look-up of the name to the last byte, and leave at once. Nothing is trusted: redirects are not followed, neither proxies
nor credentials are taken from the environment, answers are read up to a size and never decompressed.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NoReturn

import httpx2
from pydantic import BaseModel, Field, ValidationError

from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.specs import EndpointSpec, SamplingSpec
from tunix_rt_evaluator.generation import Answer, OnProgress, Question, Reply

ANSWER_BYTES = 2**20
TOKEN_BYTES = 64
MAX_FAILURES_IN_A_ROW = 16
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
BETWEEN_SIGNS_OF_LIFE_S = 1.0
_MAX_QUOTED_CHARS = 300
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_OF_THIS_PROMPT = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)


@dataclass(frozen=True)
class Endpoint:
    """A generator: one model of one server, and how it is to be asked."""

    spec: EndpointSpec
    model: str
    sampling: SamplingSpec
    end_token_ids: tuple[int, ...]
    api_key: str | None = field(default=None, repr=False)

    def answer(self, questions: Sequence[Question], on_progress: OnProgress) -> Sequence[Answer]:
        """Ask all questions, `concurrency` at a time. One that fails after its retries has its reason for an answer.

        Raises:
            InvalidInput: the server refuses us, or what it says is nothing that such a server would say.
            Unavailable: it is away: as many questions in a row failed as make more of them pointless.
        """
        return asyncio.run(_Asking(self, questions, on_progress).all())


class _Failed(Exception):
    """An attempt that gave no answer; `again` says whether another may, `wait_s` how long the server wants us to."""

    def __init__(self, reason: str, *, again: bool, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait_s = again, wait_s


class _Choice(BaseModel):
    text: str
    finish_reason: str | None


class _Completions(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _Asking:
    """One evaluation's exchange with its server."""

    def __init__(self, endpoint: Endpoint, questions: Sequence[Question], on_progress: OnProgress) -> None:
        self._endpoint, self._questions, self._on_progress = endpoint, questions, on_progress
        self._answers: dict[int, Answer] = {}
        self._failed_in_a_row = 0
        self._waiting = iter(enumerate(questions))
        key = endpoint.api_key
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=None,
            limits=httpx2.Limits(max_connections=endpoint.spec.concurrency),
            trust_env=False,
        )

    async def all(self) -> list[Answer]:
        """Return the answers in the order of the questions."""
        try:
            async with self._http, asyncio.TaskGroup() as around:
                signs = around.create_task(self._show_life())
                async with asyncio.TaskGroup() as askers:
                    for _ in range(min(self._endpoint.spec.concurrency, len(self._questions))):
                        askers.create_task(self._ask_in_turn())
                signs.cancel()
        except ExceptionGroup as group:
            raise _first(group) from None
        return [self._answers[index] for index in range(len(self._questions))]

    async def _show_life(self) -> None:
        """Tell how far we are even while every answer is slow; it is also how we hear that we are to leave."""
        while True:
            self._on_progress(len(self._answers), len(self._questions))
            await asyncio.sleep(BETWEEN_SIGNS_OF_LIFE_S)

    async def _ask_in_turn(self) -> None:
        for index, question in self._waiting:
            try:
                self._answers[index] = await self._ask(question)
                self._failed_in_a_row = 0
            except _Failed as failure:
                self._answers[index] = f"the endpoint gave no answer: {failure}"
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= min(MAX_FAILURES_IN_A_ROW, len(self._questions)):
                    self._give_up(failure)
            self._on_progress(len(self._answers), len(self._questions))

    def _give_up(self, last: _Failed) -> NoReturn:
        url, count = self._endpoint.spec.url, self._failed_in_a_row
        if last.again:
            raise Unavailable(f"{url} gave no answer to {count} prompts in a row, the last time because {last}")
        raise InvalidInput(
            f"{url} had no use for {count} prompts in a row; of the last it said: {last}", field="evaluate.endpoint"
        )

    async def _ask(self, question: Question) -> Reply:
        """Ask until there is an answer, or no more hope of one."""
        pause_s = FIRST_PAUSE_S
        for _ in range(self._endpoint.spec.retries):
            try:
                return await self._exchange(question)
            except _Failed as failure:
                if not failure.again:
                    raise
                await asyncio.sleep(max(pause_s, failure.wait_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return await self._exchange(question)

    async def _exchange(self, question: Question) -> Reply:
        """Ask once."""
        spec = self._endpoint.spec
        try:
            async with (
                asyncio.timeout(spec.timeout_s),
                self._http.stream("POST", f"{spec.url}/completions", json=self._request(question)) as response,
            ):
                content = await _read(response, ANSWER_BYTES + TOKEN_BYTES * self._endpoint.sampling.max_new_tokens)
        except TimeoutError:
            raise _Failed(f"it took longer than {spec.timeout_s:g} s", again=True) from None
        except httpx2.RequestError as error:
            raise _Failed(f"{type(error).__name__}: {_one_line(str(error))}", again=True) from None
        if not response.is_success:
            self._refused(response, content)
        return _reply(content)

    def _request(self, question: Question) -> dict[str, Any]:
        """The body; defaults are spelled out, because servers take theirs from a model's generation_config.json."""
        sampling = self._endpoint.sampling
        return {
            "model": self._endpoint.model,
            "prompt": question.token_ids,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "seed": (sampling.seed + question.seed) % 2**31,
            "stop": sampling.stop,
            "stop_token_ids": self._endpoint.end_token_ids,
            "skip_special_tokens": False,
        }

    def _refused(self, response: httpx2.Response, content: bytes) -> NoReturn:
        """Sort a refusal: a later try may work, this prompt cannot, or none can."""
        status, url = response.status_code, self._endpoint.spec.url
        said = f"HTTP {status}: {_message(content, self._endpoint.api_key)}"
        if status in _LATER or response.is_server_error:
            raise _Failed(said, again=True, wait_s=_retry_after_s(response))
        if status in _OF_THIS_PROMPT:
            raise _Failed(said, again=False)
        advice = "give the address of an OpenAI-compatible server; redirects are not followed"
        if status == HTTPStatus.NOT_FOUND:
            advice = f"serve the weights as {self._endpoint.model}, and let the URL end before /completions"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            advice = "put a key that it accepts into TUNIX_RT_ENDPOINT_API_KEYS of the evaluator"
        raise InvalidInput(f"{url} answers {said}: {advice}", field="evaluate.endpoint")


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _read(response: httpx2.Response, limit_bytes: int) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Failed("its answer is compressed, though we asked for plain text", again=False)
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > limit_bytes:
            raise _Failed(f"its answer is longer than {limit_bytes} bytes", again=False)
    return bytes(content)


def _reply(content: bytes) -> Reply:
    try:
        choice = _Completions.model_validate_json(content).choices[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise _Failed(f"its answer is no completion: {where}: {first['msg']}", again=False) from None
    if choice.finish_reason not in ("stop", "length"):
        raise _Failed(f"it broke off with finish_reason {choice.finish_reason!r}", again=True)
    return Reply(choice.text, "length" if choice.finish_reason == "length" else "stop")


def _message(content: bytes, secret: str | None) -> str:
    """What a refusal says, in one short line without our key."""
    text = content[: 2**16].decode(errors="replace")
    with suppress(ValidationError):
        refusal = _Refusal.model_validate_json(content)
        text = refusal.words() or text
    return _one_line(text.replace(secret, "[key]") if secret else text)


class _Words(BaseModel):
    message: str


class _Refusal(BaseModel):
    """The shapes that servers give to errors."""

    error: _Words | str | None = None
    message: str | None = None

    def words(self) -> str | None:
        return self.error.message if isinstance(self.error, _Words) else self.error or self.message


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_QUOTED_CHARS] or "no words"


def _retry_after_s(response: httpx2.Response) -> float:
    """The pause that the server wants, in seconds or until a date; 0 where it says nothing that we understand."""
    value = response.headers.get("retry-after", "")
    with suppress(ValueError, OverflowError):
        wait_s = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
        return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)
    return 0.0
