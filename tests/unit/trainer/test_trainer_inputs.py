import json

import pytest

from tunix_rt_common.chat import ChatTemplate
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_trainer.inputs import ending_turns

TINY = PRESETS["tiny"]


def template(ending: str) -> ChatTemplate:
    source = "{% for turn in messages %}{{ turn.content + " + json.dumps(ending) + " }}{% endfor %}"
    return ChatTemplate(source, eos_token="<|eos|>")


@pytest.mark.parametrize(
    ("ending", "ends"),
    [
        ("<|user|>\n", (258, 259)),
        ("<|eos|>", (258,)),
        ("", (258,)),
        (".", (258,)),
        ("<|user|><|assistant|>", (258,)),
    ],
    ids=["token", "end token", "none", "ordinary text", "two tokens"],
)
def test_end_of_turn_is_an_end_token_where_it_is_a_token_of_its_own(ending: str, ends: tuple[int, ...]) -> None:
    assert ending_turns(TINY, byte_tokenizer(), template(ending)) == TINY.model_copy(update={"eos_token_ids": ends})
