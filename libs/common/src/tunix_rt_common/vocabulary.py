"""Which word has which number: what two models must agree on before one learns from the other's distributions."""

import json
from dataclasses import dataclass

from tunix_rt_common.errors import UnusableModel


@dataclass(frozen=True)
class Vocabulary:
    """How many words a model scores, and the number of each word that its tokenizer can write."""

    size: int
    words: dict[str, int]


def read_vocabulary(size: int, tokenizer_json: bytes) -> Vocabulary:
    """Read the words from the content of a tokenizer.json; `size` is the model's vocab_size.

    Raises:
        UnusableModel: it is not a tokenizer's file.
    """
    try:
        document = json.loads(tokenizer_json)
        listed = document["model"]["vocab"]
        words = dict(listed) if isinstance(listed, dict) else {word: number for number, (word, _) in enumerate(listed)}
        added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UnusableModel(f"tokenizer.json lists no vocabulary ({error!r}): copy the file again") from error
    return Vocabulary(size, words | added)


def check_same_vocabulary(model: Vocabulary, teacher: Vocabulary, *, teacher_name: str) -> None:
    """Refuse a teacher whose distributions are over other words, naming the first difference."""
    if model.size != teacher.size:
        raise _other(teacher_name, f"scores {teacher.size} words, the base model {model.size}")
    if model.words != teacher.words:
        word = min(set(model.words.items()) ^ set(teacher.words.items()))[0]
        ours, theirs = model.words.get(word), teacher.words.get(word)
        raise _other(teacher_name, f"gives {word[:40]!r} the number {theirs}, the base model {ours}")


def _other(teacher: str, difference: str) -> UnusableModel:
    return UnusableModel(
        f"teacher {teacher[:200]!r} {difference}: choose a teacher with the base model's own tokenizer, or train on "
        "its answers with sft",
        field="train.teacher",
    )
