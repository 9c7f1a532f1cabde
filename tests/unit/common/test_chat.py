import pytest

from tunix_rt_common.chat import (
    DEFAULT_TEMPLATE,
    MAX_TEMPLATE_STEPS,
    ChatTemplate,
    Segment,
    completion,
    conversation,
    end_of_turn,
    prompt_text,
    split_by_steps,
)
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import Trace

TRACE = Trace.model_validate(
    {
        "prompt": "2+2=",
        "steps": [{"i": 0, "type": "think", "content": "two and two"}, {"i": 1, "type": "add", "content": "make four"}],
        "final_answer": "4",
    }
)
PLAIN = ChatTemplate(DEFAULT_TEMPLATE, "<s>", "</s>")
CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ CONTENT }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
OPENING{% endif %}"""


def chatml(content: str = "message.content", opening: str = "") -> ChatTemplate:
    return ChatTemplate(CHATML.replace("CONTENT", content).replace("OPENING", opening), eos_token="<|im_end|>")


def render(source: str) -> str:
    return ChatTemplate(source, "<s>", "</s>").render([{"role": "user", "content": "é"}], add_generation_prompt=True)


def test_trace_completion_holds_reasoning_and_answer():
    assert completion(TRACE, "trace") == "<think>\ntwo and two\nmake four\n</think>\n4"


def test_answer_completion_is_the_answer_alone():
    assert completion(TRACE, "answer") == "4"


def test_default_template_trains_the_reply_and_its_end_only():
    assert conversation(TRACE, "answer", PLAIN) == (
        Segment("<s>Question: 2+2=\nAnswer:\n", trained=False),
        Segment("4</s>", trained=True),
    )


@pytest.mark.parametrize("template", [PLAIN, chatml(), chatml("message.content|trim")])
def test_reply_is_split_at_its_steps_and_nothing_is_lost(template):
    padded = TRACE.model_copy(
        update={"steps": (TRACE.steps[0].model_copy(update={"content": " two "}), TRACE.steps[1])}
    )
    for trace in (TRACE, padded):
        _, reply = conversation(trace, "trace", template)
        pieces = split_by_steps(reply, trace, "trace")
        assert "".join(piece.text for piece in pieces) == reply.text
        assert all(piece.trained for piece in pieces)
        steps = {piece.step_type: piece.text.strip() for piece in pieces if piece.step_type}
        assert steps == {step.type: step.content.strip() for step in trace.steps}


def test_answer_that_equals_a_step_is_no_step():
    trace = TRACE.model_copy(update={"final_answer": "make four"})
    _, reply = conversation(trace, "answer", PLAIN)
    assert split_by_steps(reply, trace, "answer") == (reply,)
    [*_, last] = split_by_steps(conversation(trace, "trace", PLAIN)[1], trace, "trace")
    assert last.text.endswith("make four</s>")
    assert last.step_type is None


def test_default_template_separates_turns_of_a_longer_chat():
    turns = [("system", "Be short."), ("user", "1?"), ("assistant", "2"), ("user", "3?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = PLAIN.render(messages, add_generation_prompt=True)
    assert text == "<s>Be short.\n\nQuestion: 1?\nAnswer:\n2</s>\nQuestion: 3?\nAnswer:\n"


LLAMA3 = """\
{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role }}<|end_header_id|>

{{ turn.content | trim }}<|eot_id|>{% endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
QWEN3 = """\
{% if tools %}{{ raise_exception("tools were not given") }}{% endif %}
{% set last = namespace(question=-1) %}
{% for turn in messages %}{% if turn.role == "user" %}{% set last.question = loop.index0 %}{% endif %}{% endfor %}
{% for turn in messages %}
{% set said = turn.content.split("</think>") %}
{{- "<|im_start|>" + turn.role + "\\n" }}
{%- if turn.role == "assistant" and loop.index0 > last.question %}
{{- "<think>\\n" + (said[:-1] | join | replace("<think>", "") | trim) + "\\n</think>\\n\\n" }}
{%- endif %}
{{- said[-1].lstrip("\\n") + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{% endif %}"""
MISTRAL = """\
{{ bos_token }}{% for turn in messages %}{% if (turn.role == "user") != (loop.index0 % 2 == 0) %}
{{ raise_exception("questions and replies must take turns") }}{% endif %}
{% if turn.role == "user" %}{{ "[INST] " + turn.content + "[/INST]" }}
{%- else %}{{ " " + (turn.content | trim) + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0].role == "system" %}{{ raise_exception("no system role") }}{% endif %}
{% for turn in messages %}<start_of_turn>{{ "model" if turn.role == "assistant" else turn.role }}
{{ turn.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
THOUGHT = "<think>\ntwo and two\nmake four\n</think>\n"


@pytest.mark.parametrize(
    ("source", "asked", "replied", "ending"),
    [
        (
            LLAMA3,
            f"<s>{HEADER.format('user')}2+2=<|eot_id|>{HEADER.format('assistant')}",
            f"{THOUGHT}4<|eot_id|>",
            "<|eot_id|>",
        ),
        (
            QWEN3,
            "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n",
            f"{THOUGHT}\n4<|im_end|>\n",
            "<|im_end|>",
        ),
        (MISTRAL, "<s>[INST] 2+2=[/INST]", f" {THOUGHT}4</s>", "</s>"),
        (
            GEMMA,
            "<s><start_of_turn>user\n2+2=<end_of_turn>\n<start_of_turn>model\n",
            f"{THOUGHT}4<end_of_turn>\n",
            "<end_of_turn>",
        ),
    ],
    ids=["llama3", "qwen3", "mistral", "gemma"],
)
def test_templates_like_those_of_the_families_split_into_prompt_and_reply(source, asked, replied, ending):
    template = ChatTemplate(source, "<s>", "</s>")
    assert conversation(TRACE, "trace", template) == (Segment(asked, trained=False), Segment(replied, trained=True))
    assert end_of_turn(template) == ending


def test_template_without_an_ending_ends_turns_with_the_end_token():
    assert end_of_turn(ChatTemplate("{% for turn in messages %}{{ turn.content }}{% endfor %}", "", "</s>")) == "</s>"


@pytest.mark.parametrize(
    ("source", "messages", "told"),
    [
        (GEMMA, [{"role": "system", "content": "Be short."}], "no system role"),
        (MISTRAL, [{"role": "user", "content": "1"}] * 2, "must take turns"),
    ],
)
def test_refusal_of_a_template_itself_is_passed_on(source, messages, told):
    with pytest.raises(InvalidInput, match=told):
        ChatTemplate(source, "<s>", "</s>").render(messages, add_generation_prompt=True)


@pytest.mark.parametrize("target", ["trace", "answer"])
@pytest.mark.parametrize("template", [PLAIN, chatml(), chatml(opening="<think>\n\n</think>\n\n")])
def test_conversation_begins_with_the_prompt_that_the_model_is_asked_with(target, template):
    prompt, reply = conversation(TRACE, target, template)
    assert prompt == Segment(prompt_text("2+2=", template), trained=False)
    assert reply.trained


def test_reply_of_a_chat_template_ends_with_its_end_of_turn_once():
    _, reply = conversation(TRACE, "trace", chatml())
    assert reply.text == "<think>\ntwo and two\nmake four\n</think>\n4<|im_end|>\n"


def test_template_that_ends_replies_with_nothing_gets_the_end_token():
    template = ChatTemplate("{% for message in messages %}{{ message.content + '\\n' }}{% endfor %}", eos_token="</s>")
    assert conversation(TRACE, "answer", template)[1].text == "4\n</s>"


def test_template_that_strips_reasoning_keeps_it_in_the_trained_reply():
    template = chatml("message.content.split('</think>')[-1].strip()")
    prompt, reply = conversation(TRACE, "trace", template)
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert reply.text == "<think>\ntwo and two\nmake four\n</think>\n4<|im_end|>\n"


def test_step_that_is_part_of_the_answer_does_not_hide_stripped_reasoning():
    trace = TRACE.model_copy(update={"steps": (TRACE.steps[0].model_copy(update={"content": "4"}),)})
    template = chatml("message.content.split('</think>')[-1].strip()")
    assert "<think>\n4\n</think>" in conversation(trace, "trace", template)[1].text


def test_answer_that_occurs_in_the_end_of_turn_token_is_kept_whole():
    trace = TRACE.model_copy(update={"final_answer": "im_end"})
    template = chatml("message.content.split('</think>')[-1].strip()")
    assert conversation(trace, "trace", template)[1].text.endswith("</think>\nim_end<|im_end|>\n")


@pytest.mark.parametrize("opening", ["<think>\n", "<think>\n\n</think>\n\n"])
def test_think_tag_that_the_template_opens_is_left_to_the_model(opening):
    assert prompt_text("2+2=", chatml(opening=opening)).endswith("=<|im_end|>\n<|im_start|>assistant\n")


def test_think_tag_at_the_end_of_a_question_stays():
    template = ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}")
    assert prompt_text("What is <think>", template) == "What is <think>"


def test_template_whose_reply_header_differs_from_its_generation_prompt_is_refused():
    with pytest.raises(InvalidInput, match="cannot be split"):
        conversation(TRACE, "trace", chatml(opening="Sure: "))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include 'x' %}", "no loader"),
        ("{{ messages[9].content.x }}", "no element 9"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ 'a' * 1000000000 }}", "uses \\*"),
        ("{{ 9 ** 999999999 }}", "uses \\*\\*"),
        ("{% for a in range(999999) %}{% endfor %}", "Range too big"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "loop rounds"),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}", "loop rounds"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
        ("{% for a in range(90000) %}" + "x" * 1000 + "{% endfor %}", "characters"),
        ("{{ " + "(" * 5000, "nested too deep"),
    ],
)
def test_template_that_fails_loops_or_leaves_the_sandbox_is_invalid_input(source, message):
    with pytest.raises(InvalidInput, match=message) as refused:
        render(source)
    assert refused.value.field == "chat_template"
    assert "\n" not in str(refused.value)


def test_step_budget_is_of_one_rendering():
    template = ChatTemplate(f"{{% for a in range({MAX_TEMPLATE_STEPS - 1}) %}}{{% endfor %}}")
    assert [template.render([], add_generation_prompt=False) for _ in range(2)] == ["", ""]


def test_what_transformers_offers_templates_is_there():
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "é"}]'
    assert render("{% generation %}{{ bos_token }}{% endgeneration %}{{ eos_token }}") == "<s></s>"
    assert render("{% for a in range(5) %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endfor %}") == "01"
    assert render("{% if tools is none %}no tools{% endif %}") == "no tools"


def test_templates_see_a_date_that_never_changes():
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"


def test_block_tags_leave_no_white_space():
    assert render("  {% if true %}\nx\n  {% endif %}\n") == "x\n"
