"""Splits that were tokenised before, each in a file that is named by the digest of all that it follows from."""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tunix_rt_common import chat, traces
from tunix_rt_modeling import tokenizer
from tunix_rt_trainer.engine import tokenise
from tunix_rt_trainer.engine.tokenise import Encoded, Tokenised

logger = logging.getLogger(__name__)

SUFFIX = ".npz"
KEPT_BYTES = 8 * 1024**3
LIBRARIES = ("jinja2", "tokenizers")
PROGRAM: Sequence[ModuleType] = (chat, traces, tokenizer, tokenise)
"""The modules that decide what becomes of a row."""


class TokenCache:
    """A folder that any number of processes share; what was not asked for the longest goes first."""

    def __init__(self, folder: Path, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._kept_bytes = kept_bytes

    def get(self, source: dict[str, Any], make: Callable[[], Tokenised]) -> Tokenised:
        """What `make` makes of a source, or made of it before; `source` says all that this follows from."""
        file = self._folder / (_digest(source) + SUFFIX)
        if (known := _read(file)) is not None:
            return known
        made = make()
        try:
            self._write(file, made)
        except OSError as error:
            logger.warning("token ids are not kept for the next start: %s", error)
        return made

    def _write(self, file: Path, rows: Tokenised) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            with aside.open("wb") as opened:
                np.savez(opened, allow_pickle=False, **_as_arrays(rows))
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
        self._shrink()

    def _shrink(self) -> None:
        states = [(file.stat(), file) for file in self._folder.glob("*" + SUFFIX)]
        newest_first = sorted(states, key=lambda pair: pair[0].st_mtime, reverse=True)
        sizes = accumulate(state.st_size for state, _ in newest_first)
        for size, (_, file) in zip(sizes, newest_first, strict=True):
            if size > self._kept_bytes:
                file.unlink(missing_ok=True)


def _digest(source: dict[str, Any]) -> str:
    """Of the source, and of the program that would read it: another one might make something else of it."""
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode())
    for module in PROGRAM:
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(" ".join(map(version, LIBRARIES)).encode())
    return digest.hexdigest()


def _as_arrays(rows: Tokenised) -> dict[str, np.ndarray]:
    """Rows of any number of texts, laid end to end."""
    texts = [text for row in rows for text in row]
    return {
        "texts_of_row": np.array([len(row) for row in rows], np.int64),
        "tokens_of_text": np.array([len(text.token_ids) for text in texts], np.int64),
        "token_ids": np.concatenate([np.zeros(0, np.int32), *(text.token_ids for text in texts)]),
        "loss_weights": np.concatenate([np.zeros(0, np.float32), *(text.loss_weights for text in texts)]),
    }


def _read(file: Path) -> Tokenised | None:
    """None where there is nothing, or nothing whole."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            rows = _as_rows(**arrays)
        file.touch()
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        logger.warning("token ids that were kept cannot be read and are made again: %s", error)
        return None
    return rows


def _as_rows(
    texts_of_row: np.ndarray, tokens_of_text: np.ndarray, token_ids: np.ndarray, loss_weights: np.ndarray
) -> Tokenised:
    borders = np.cumsum(tokens_of_text)[:-1]
    texts: Iterator[Encoded] = map(Encoded, np.split(token_ids, borders), np.split(loss_weights, borders))
    return [tuple(islice(texts, int(count))) for count in texts_of_row]
