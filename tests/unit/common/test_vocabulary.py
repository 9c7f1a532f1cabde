import json

import pytest

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.vocabulary import check_same_vocabulary, read_vocabulary


def words(vocab, added=(), size=4):
    document = {"model": {"vocab": vocab}, "added_tokens": [{"content": word, "id": n} for word, n in added]}
    return read_vocabulary(size, json.dumps(document).encode())


def test_words_are_the_same_whatever_kind_of_tokenizer_lists_them():
    listed = words([["a", -1.0], ["b", -2.0]], added=[("<s>", 2)])
    named = words({"b": 1, "a": 0, "<s>": 2}, added=[("<s>", 2)])
    check_same_vocabulary(listed, named, teacher_name="t")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (words({"a": 0, "b": 1}, size=8), "teacher 't' scores 8 words, the base model 4"),
        (words({"a": 1, "b": 0}), "gives 'a' the number 1, the base model 0"),
        (words({"a": 0}), "gives 'b' the number None, the base model 1"),
        (words({"a": 0, "b": 1}, added=[("<s>", 2)]), "gives '<s>' the number 2, the base model None"),
    ],
)
def test_other_words_are_refused_with_the_first_difference(teacher, message):
    with pytest.raises(UnusableModel, match=message) as refused:
        check_same_vocabulary(words({"a": 0, "b": 1}), teacher, teacher_name="t")
    assert refused.value.field == "train.teacher"


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"model": {"vocab": 5}}', b'{"model": {"vocab": [1]}}', b"[" * 100_000]
)
def test_file_that_lists_no_words_is_refused(content):
    with pytest.raises(UnusableModel, match="lists no vocabulary"):
        read_vocabulary(4, content)
