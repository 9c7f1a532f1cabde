import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.tokenizer import BYTE_SPECIALS, Tokenizer, byte_tokenizer, load_tokenizer

BYTES = byte_tokenizer()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_its_utf8_bytes_and_back(text: str) -> None:
    if not any(special in text for special in BYTE_SPECIALS):
        assert BYTES.encode(text) == list(text.encode())
    assert BYTES.decode(BYTES.encode(text)) == text


@given(st.lists(st.integers(0, 262)))
def test_any_ids_decode_to_some_text(ids: list[int]) -> None:
    assert isinstance(BYTES.decode(ids), str)


def test_broken_utf8_decodes_to_replacement_characters() -> None:
    assert BYTES.decode([*b"a", 0xE4, *b"b"]) == "a\ufffdb"


def test_special_strings_are_single_ids() -> None:
    assert BYTES.encode("".join(BYTE_SPECIALS)) == list(range(256, 263))
    assert BYTES.decode(list(range(256, 263))) == "".join(BYTE_SPECIALS)
    assert (BYTES.pad_id, BYTES.bos_id, BYTES.eos_id, BYTES.vocab_size) == (256, 257, 258, 263)


def test_begin_token_is_added_only_when_asked() -> None:
    assert BYTES.encode("a") == [97]
    assert BYTES.encode("a", add_special=True) == [257, 97]


def test_offsets_are_characters_of_the_text() -> None:
    text = "aé<think>漢</think>"
    ids, offsets = BYTES.encode_with_offsets(text)
    assert ids == BYTES.encode(text)
    assert [text[start:end] for start, end in offsets] == ["a", "é", "é", "<think>", "漢", "漢", "漢", "</think>"]


def test_tokenizer_survives_a_directory(tmp_path: Path) -> None:
    for name, content in BYTES.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_tokenizer(tmp_path)
    assert again.files() == BYTES.files()
    assert again.chat_template == BYTES.chat_template
    assert again.encode("<|user|>é") == BYTES.encode("<|user|>é")


def with_settings(**settings: object) -> Tokenizer:
    return Tokenizer(BYTES.files() | {"tokenizer_config.json": json.dumps(settings).encode()})


def test_padding_falls_back_to_the_end_token() -> None:
    tokenizer = with_settings(eos_token={"content": "<|eos|>", "special": True})
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (258, 258, None)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.chat_template) == ("<|eos|>", None, None)


def test_template_file_wins_and_the_default_of_several_is_taken() -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    tokenizer = with_settings(eos_token="<|eos|>", chat_template=named)
    assert tokenizer.chat_template == "d"
    assert Tokenizer(tokenizer.files() | {"chat_template.jinja": b"file"}).chat_template == "file"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "has no eos_token"),
        ({"eos_token": "<end>"}, "eos_token '<end>' is not in the vocabulary"),
        ({"eos_token": 3}, "eos_token is 3, not a string"),
        ({"eos_token": "<|eos|>", "chat_template": 3}, "chat_template is not a string"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(UnusableModel, match=fault):
        with_settings(**settings)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "Pickle"}}'])
def test_malformed_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableModel, match=r"tokenizer\.json cannot be read"):
        Tokenizer(BYTES.files() | {"tokenizer.json": content})


def with_picture_token() -> Tokenizer:
    document = json.loads(BYTES.files()["tokenizer.json"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"].append({"id": 263, "content": "<image_soft_token>", "special": True, **flags})
    return Tokenizer(BYTES.files() | {"tokenizer.json": json.dumps(document).encode()})


def test_token_for_pictures_that_gemma3_has_no_embedding_for_is_ordinary_text() -> None:
    tokenizer = with_picture_token()
    assert tokenizer.vocab_size == 263
    assert tokenizer.encode("a<image_soft_token><|eos|>") == [*b"a<image_soft_token>", 258]
    assert b"<image_soft_token>" in tokenizer.files()["tokenizer.json"], "others read the file as it was"
