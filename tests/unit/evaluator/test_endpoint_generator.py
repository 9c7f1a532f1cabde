import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from tests.servers.completions import CompletionsServer, Exchange, completions_server

from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.specs import EndpointSpec, SamplingSpec
from tunix_rt_evaluator.endpoint import MAX_FAILURES_IN_A_ROW, Endpoint
from tunix_rt_evaluator.generation import Answer, Question, Reply

SAMPLING = SamplingSpec(max_new_tokens=5, temperature=0.5, top_p=0.9, top_k=3, stop=("\n\n",), seed=7)


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with completions_server() as served:
        yield served


def questions(count: int) -> list[Question]:
    return [Question((number, 500 + number), seed=number) for number in range(count)]


def ask(
    url: str,
    count: int = 1,
    *,
    api_key: str | None = None,
    sampling: SamplingSpec = SAMPLING,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    **spec: object,
) -> list[Answer]:
    endpoint = Endpoint(EndpointSpec(url=url, **spec), "tunix-abc", sampling, (2, 7), api_key)
    return list(endpoint.answer(questions(count), on_progress))


def failing(status: int, content: bytes = b"{}", *, prompt: int | None = None, **headers: str):
    """Refuse one prompt, or all of them."""

    def behave(exchange: Exchange) -> None:
        if prompt in (None, exchange.prompt):
            exchange.reply(status, content, **headers)
        else:
            exchange.say("fine")

    return behave


def reason(answers: list[Answer], index: int = 0) -> str:
    assert isinstance(answers[index], str)
    assert all(isinstance(answer, Reply) for number, answer in enumerate(answers) if number != index)
    return answers[index]


def test_prompt_goes_out_as_the_tokens_of_training_with_the_sampling_of_the_spec(server: CompletionsServer) -> None:
    assert ask(server.url, 2, concurrency=1) == [Reply("said 0", "stop"), Reply("said 1", "stop")]
    assert server.paths == ["/v1/completions"] * 2
    assert server.bodies[1] == {
        "model": "tunix-abc",
        "prompt": [1, 501],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 8,
        "stop": ["\n\n"],
        "stop_token_ids": [2, 7],
        "skip_special_tokens": False,
    }
    assert "authorization" not in server.headers[1]


def test_all_tokens_are_asked_for_where_top_k_is_off(server: CompletionsServer) -> None:
    ask(server.url, sampling=SamplingSpec())
    assert (server.bodies[0]["top_k"], server.bodies[0]["temperature"]) == (-1, 0.0)


def test_key_is_shown_to_the_server(server: CompletionsServer) -> None:
    ask(server.url, api_key="sk-1")
    assert server.headers[0]["authorization"] == "Bearer sk-1"


def test_environment_sends_the_question_nowhere_else(
    server: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(server.url) == [Reply("said 0", "stop")]


def test_answers_keep_the_order_of_the_questions_and_no_more_than_asked_are_under_way(
    server: CompletionsServer,
) -> None:
    def later_ones_first(exchange: Exchange) -> None:
        time.sleep(0.02 * (3 - exchange.prompt % 4))
        exchange.say(str(exchange.prompt), "length")

    server.behaviour = later_ones_first
    seen: list[tuple[int, int]] = []
    answers = ask(server.url, 16, concurrency=4, on_progress=lambda done, total: seen.append((done, total)))
    assert answers == [Reply(str(number), "length") for number in range(16)]
    assert server.most_at_a_time == 4
    assert seen == sorted(seen)
    assert seen[-1] == (16, 16)


def hang_up(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
    exchange.close_connection = True


@pytest.mark.parametrize(
    "failure",
    [failing(500), failing(503), failing(408), failing(429), hang_up, lambda exchange: exchange.say("", "abort")],
    ids=["500", "503", "408", "429", "hang up", "abort"],
)
def test_failure_that_passes_is_asked_again(server: CompletionsServer, failure: Callable[[Exchange], None]) -> None:
    server.behaviour = lambda exchange: failure(exchange) if exchange.times < 3 else exchange.say("at last")
    assert ask(server.url, retries=2) == [Reply("at last", "stop")]
    assert server.times[0] == 3


@pytest.mark.parametrize("pause", ["1", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"])
def test_pause_that_the_server_asks_for_is_kept(server: CompletionsServer, pause: "str | Callable[[], str]") -> None:
    def busy_once(exchange: Exchange) -> None:
        if exchange.times == 1:
            exchange.reply(429, b"{}", Retry_After=pause if isinstance(pause, str) else pause())
        else:
            exchange.say("now")

    server.behaviour = busy_once
    assert ask(server.url) == [Reply("now", "stop")]
    assert 0.9 < server.asked_at[1] - server.asked_at[0] < 5


def test_prompt_that_keeps_failing_has_its_reason_and_the_others_their_answers(server: CompletionsServer) -> None:
    server.behaviour = failing(500, b'{"error": {"message": "worker 3 died"}}', prompt=2)
    answers = ask(server.url, 4, retries=1)
    assert reason(answers, 2) == "the endpoint gave no answer: HTTP 500: worker 3 died"
    assert server.times[2] == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_prompt_that_is_refused_is_not_asked_again(server: CompletionsServer, status: int) -> None:
    server.behaviour = failing(status, b'{"message": "the context holds 8 tokens"}', prompt=1)
    assert reason(ask(server.url, 3), 1).endswith(f"HTTP {status}: the context holds 8 tokens")
    assert server.times[1] == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no completion"),
        (b"<html>hello</html>", "no completion"),
        (b"[" * 100_000, "no completion"),
        (b"[]", "no completion"),
        (b'{"choices": []}', "choices"),
        (b'{"choices": [{"text": 5, "finish_reason": "stop"}]}', "choices.0.text"),
        (b'{"choices": [{"text": "a"}]}', "choices.0.finish_reason"),
        (b'{"choices": [{"text": "\xff", "finish_reason": "stop"}]}', "no completion"),
        (b'{"choices": [{"text": "\\ud800", "finish_reason": "stop"}]}', "no completion"),
    ],
)
def test_answer_that_is_none_is_told(server: CompletionsServer, content: bytes, told: str) -> None:
    server.behaviour = failing(200, content, prompt=0)
    assert told in reason(ask(server.url, 2))


def test_compressed_answer_is_not_unpacked(server: CompletionsServer) -> None:
    server.behaviour = failing(200, gzip.compress(bytes(10**7)), prompt=0, Content_Encoding="gzip")
    assert "compressed" in reason(ask(server.url, 2))
    assert server.headers[0]["accept-encoding"] == "identity"


def test_answer_without_end_is_read_up_to_a_limit(server: CompletionsServer) -> None:
    sent = []

    def endless(exchange: Exchange) -> None:
        if exchange.prompt:
            exchange.say("fine")
            return
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(2**30))
        exchange.end_headers()
        for _ in range(2**10):
            exchange.wfile.write(bytes(2**20))
            sent.append(2**20)

    server.behaviour = endless
    assert "longer than" in reason(ask(server.url, 2))
    assert sum(sent) < 64 * 2**20


def drip(head: bytes, piece: bytes) -> Callable[[Exchange], None]:
    """Send a little, often enough that no single read ever times out."""

    def behave(exchange: Exchange) -> None:
        if exchange.prompt:
            exchange.say("fine")
            return
        exchange.wfile.write(head)
        for _ in range(200):
            exchange.wfile.write(piece)
            time.sleep(0.05)

    return behave


@pytest.mark.parametrize(
    "slowly",
    [
        drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
        drip(b"", b""),
    ],
    ids=["head", "body", "nothing"],
)
def test_answer_takes_no_longer_than_it_may(server: CompletionsServer, slowly: Callable[[Exchange], None]) -> None:
    server.behaviour = slowly
    began = time.monotonic()
    assert "longer than 0.4 s" in reason(ask(server.url, 2, timeout_s=0.4, retries=0))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (302, "redirects are not followed"),
        (307, "redirects are not followed"),
        (401, "TUNIX_RT_ENDPOINT_API_KEYS"),
        (403, "TUNIX_RT_ENDPOINT_API_KEYS"),
        (404, "serve the weights as tunix-abc"),
        (405, "the address of an OpenAI-compatible server"),
        (499, "the address of an OpenAI-compatible server"),
    ],
)
def test_server_that_is_not_the_one_that_was_meant_is_the_users_error(
    server: CompletionsServer, status: int, advice: str
) -> None:
    stray = server.url.replace("/v1", "/latest/meta-data")
    server.behaviour = failing(status, json.dumps({"error": "not\nhere " + "!" * 9999}).encode(), Location=stray)
    with pytest.raises(InvalidInput, match=advice) as refused:
        ask(server.url, 3, concurrency=1)
    assert refused.value.field == "evaluate.endpoint"
    assert f"HTTP {status}: not here !!!" in str(refused.value)
    assert len(str(refused.value)) < 600
    assert server.times.total() == 1
    assert server.strayed == []


def test_key_that_a_server_repeats_is_not_told(server: CompletionsServer) -> None:
    server.behaviour = failing(401, b'{"error": {"message": "wrong key sk-secret"}}')
    with pytest.raises(InvalidInput, match=r"wrong key \[key\]") as refused:
        ask(server.url, api_key="sk-secret")
    assert "sk-secret" not in str(refused.value)


def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match=r"no answer to 2 prompts in a row.*ConnectError"):
        ask(f"http://127.0.0.1:{port}/v1", 2, retries=0)


def test_host_that_does_not_exist_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no answer"):
        ask("http://nobody.invalid/v1", retries=0)


def test_server_that_goes_away_ends_the_asking(server: CompletionsServer) -> None:
    server.behaviour = lambda exchange: exchange.say("fine") if exchange.prompt < 5 else exchange.reply(503, b"")
    with pytest.raises(Unavailable, match=f"no answer to {MAX_FAILURES_IN_A_ROW} prompts in a row"):
        ask(server.url, 200, concurrency=2, retries=0)
    assert len(server.times) < 5 + MAX_FAILURES_IN_A_ROW + 2


def test_server_that_refuses_every_prompt_is_the_users_error(server: CompletionsServer) -> None:
    server.behaviour = failing(400, b'{"message": "top_k is not known here"}')
    with pytest.raises(InvalidInput, match=r"16 prompts in a row.*top_k is not known here"):
        ask(server.url, 100)


def test_failures_with_answers_between_them_are_not_an_outage(server: CompletionsServer) -> None:
    server.behaviour = lambda exchange: exchange.reply(500, b"") if exchange.prompt % 2 else exchange.say("fine")
    answers = ask(server.url, 3 * MAX_FAILURES_IN_A_ROW, retries=0, concurrency=1)
    assert sum(isinstance(answer, str) for answer in answers) == 3 * MAX_FAILURES_IN_A_ROW // 2


def test_asking_ends_when_it_is_told_to_while_every_answer_is_slow(server: CompletionsServer) -> None:
    ended = threading.Event()
    server.behaviour = lambda _: ended.wait(30)

    class Leave(Exception):
        pass

    def on_progress(done: int, total: int) -> None:
        if server.bodies:
            raise Leave

    try:
        with pytest.raises(Leave):
            ask(server.url, 20, on_progress=on_progress)
    finally:
        ended.set()
    assert len(server.bodies) <= 8


def test_no_question_is_no_request(server: CompletionsServer) -> None:
    assert ask(server.url, 0) == []
