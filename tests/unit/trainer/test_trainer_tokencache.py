import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tunix_rt_trainer.engine.tokenise import Encoded
from tunix_rt_trainer.tokencache import TokenCache

SOURCE = {"dataset": "a" * 64, "split": "train", "step_weights": {"verify": 2.0}}


def text(*token_ids: int) -> Encoded:
    ids = np.array(token_ids, np.int32)
    return Encoded(ids, (ids / 4).astype(np.float32))


ROWS = [(text(1, 2, 3), text(4)), (), (text(5, 6), text())]


def unwanted():
    raise AssertionError("it is known")


def assert_same(given, expected) -> None:
    assert [len(row) for row in given] == [len(row) for row in expected]
    for ours, theirs in zip(chain(*given), chain(*expected), strict=True):
        for mine, its in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("rows", [ROWS, [], [()]], ids=["pairs", "no rows", "no texts"])
def test_what_was_made_once_is_read(tmp_path, rows):
    assert_same(TokenCache(tmp_path / "new").get(SOURCE, lambda: rows), rows)
    assert_same(TokenCache(tmp_path / "new").get(SOURCE, unwanted), rows)


@pytest.mark.parametrize("change", [{"split": "validation"}, {"dataset": "b" * 64}, {"step_weights": None}])
def test_anything_else_is_made(tmp_path, change):
    cache, others = TokenCache(tmp_path), [(text(9),)]
    cache.get(SOURCE, lambda: ROWS)
    assert cache.get(SOURCE | change, lambda: others) is others


@pytest.mark.parametrize("harm", ["cut", "changed", "emptied", "no archive"])
def test_damaged_file_is_made_again(tmp_path, harm, caplog):
    cache = TokenCache(tmp_path)
    cache.get(SOURCE, lambda: ROWS)
    [file] = files(tmp_path)
    content = file.read_bytes()
    at = content.index(np.array([1, 2, 3], np.int32).tobytes())
    file.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "changed": content[:at] + b"\x09" + content[at + 1 :],
            "emptied": b"",
            "no archive": b"token ids" * 100,
        }[harm]
    )
    assert_same(cache.get(SOURCE, lambda: ROWS), ROWS)
    assert "made again" in caplog.text
    assert_same(cache.get(SOURCE, unwanted), ROWS)


def test_folder_that_cannot_be_written_is_told_and_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "tokens").write_text("a file where the folder would be")
    assert_same(TokenCache(tmp_path / "tokens").get(SOURCE, lambda: ROWS), ROWS)
    assert "not kept" in caplog.text


def test_what_was_not_asked_for_the_longest_goes_first(tmp_path):
    cache = TokenCache(tmp_path)
    names = []
    for seed in range(3):
        cache.get({"seed": seed}, lambda: ROWS)
        [new] = {file.name for file in files(tmp_path)} - set(names)
        names.append(new)
        os.utime(tmp_path / new, (seed, seed))
    cache.get({"seed": 0}, unwanted)
    size = (tmp_path / names[0]).stat().st_size
    TokenCache(tmp_path, kept_bytes=3 * size).get({"seed": 3}, lambda: ROWS)
    left = {file.name for file in files(tmp_path)}
    assert names[0] in left
    assert names[1] not in left
    assert len(left) == 3
