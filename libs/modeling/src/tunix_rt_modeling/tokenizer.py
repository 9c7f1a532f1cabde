"""Text to token ids and back: a thin face over Hugging Face `tokenizers`, and the built-in byte tokenizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.directory import inside, parse_json

TOKENIZER_FILE = "tokenizer.json"
_OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_PLACEHOLDERS = frozenset({"<image_soft_token>"})
"""Stand for pictures in Gemma 3's tokenizer; its text models have no embedding for them, and no text means them."""


class Tokenizer:
    """A tokenizer built from the files that describe it; the same files are written beside saved weights.

    `vocab_size` is the highest id + 1. `pad_id` falls back to `eos_id`; `bos_id` is None where there is no such token.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        self._engine = _engine(self._files[TOKENIZER_FILE])
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            settings |= parse_json(name, self._files.get(name, b"{}"))
        self.vocab_size: int = max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.chat_template: str | None = _chat_template(self._files, settings)
        self.bos_token = _token(settings, "bos_token")
        self.bos_id = self._id("bos_token", self.bos_token)
        eos_token, pad_token = _token(settings, "eos_token"), _token(settings, "pad_token")
        eos_id, pad_id = self._id("eos_token", eos_token), self._id("pad_token", pad_token)
        if eos_token is None or eos_id is None:
            raise UnusableModel("the tokenizer has no eos_token: name it in tokenizer_config.json")
        self.eos_token: str = eos_token
        self.eos_id: int = eos_id
        self.pad_id: int = eos_id if pad_id is None else pad_id

    def _id(self, role: str, token: str | None) -> int | None:
        if token is None:
            return None
        token_id: int | None = self._engine.token_to_id(token)
        if token_id is None:
            raise UnusableModel(f"{role} {token!r} is not in the vocabulary: correct tokenizer_config.json")
        return token_id

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return the ids; `add_special` lets the tokenizer add the BOS or EOS it is set up to add."""
        ids: list[int] = self._engine.encode(text, add_special_tokens=add_special).ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids and, for each, the characters [start, end) of `text` that it stands for."""
        encoding = self._engine.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._engine.decode(list(ids), skip_special_tokens=False)
        return text

    def added_id(self, text: str) -> int | None:
        """Return the id of the token that was added to the vocabulary for exactly this text, if there is one."""
        added = self._engine.get_added_tokens_decoder().items()
        return next((token_id for token_id, token in added if token.content == text), None)

    def files(self) -> dict[str, bytes]:
        """Return file name -> content: what `load_tokenizer` needs to build this tokenizer again."""
        return dict(self._files)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read tokenizer.json and, where present, the files that name its special tokens and chat template.

    Raises:
        UnusableModel: tokenizer.json is missing, a file is malformed, or a special token is not in the vocabulary.
    """
    if not (directory / TOKENIZER_FILE).exists() and (directory / "tokenizer.model").exists():
        raise UnusableModel(
            f"{directory.name} has its tokenizer as tokenizer.model alone, which is not read: write tokenizer.json "
            "beside it with transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    present = [TOKENIZER_FILE, *(name for name in _OPTIONAL if (directory / name).exists())]
    return Tokenizer({name: inside(directory, name).read_bytes() for name in present})


BYTE_SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
_BYTE_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Build the tokenizer of the presets: id = byte for 0..255, then `BYTE_SPECIALS`; nothing is ever unknown."""
    engine = tokenizers.Tokenizer(
        models.BPE(vocab={char: byte for byte, char in enumerate(_byte_alphabet())}, merges=[])
    )
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    for token in BYTE_SPECIALS:
        engine.add_tokens([tokenizers.AddedToken(token, special=token.startswith("<|"), normalized=False)])
    engine.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", engine.token_to_id("<|bos|>"))]
    )
    settings = {
        "bos_token": "<|bos|>",
        "chat_template": _BYTE_CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return Tokenizer(
        {
            TOKENIZER_FILE: engine.to_str(pretty=True).encode(),
            "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
        }
    )


def _byte_alphabet() -> list[str]:
    """Return the visible character for each byte that byte-level BPE uses (Radford et al. 2019, GPT-2)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def _engine(content: bytes) -> tokenizers.Tokenizer:
    try:
        engine = tokenizers.Tokenizer.from_str(_without_placeholders(content.decode()))
    except Exception as error:  # tokenizers raises bare Exception for every malformed file
        raise UnusableModel(f"tokenizer.json cannot be read ({error}): copy the file again") from error
    engine.no_padding()
    engine.no_truncation()
    return engine


def _without_placeholders(description: str) -> str:
    if not any(token in description for token in _PLACEHOLDERS):
        return description
    document = json.loads(description)
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] not in _PLACEHOLDERS]
    return json.dumps(document)


def _token(settings: Mapping[str, Any], role: str) -> str | None:
    """Return a special token's text; files give it as a string or as an object with `content`."""
    value = settings.get(role)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise UnusableModel(f"{role} is {value!r}, not a string: correct tokenizer_config.json")
    return value


def _chat_template(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    """Prefer chat_template.jinja; of several named templates in tokenizer_config.json take `default`."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode(errors="replace")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise UnusableModel("chat_template is not a string: correct tokenizer_config.json")
    return template
