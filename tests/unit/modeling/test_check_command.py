import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tunix_rt_modeling.check import main

PARITY = Path(__file__).parents[2] / "data" / "hf-parity"


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """A copy of the parity model whose reference holds the logits alone."""
    shutil.copytree(PARITY / "llama", tmp_path / "llama")
    with np.load(PARITY / "llama" / "reference.npz") as archive:
        kept = {name: archive[name] for name in ("input_ids", "attention_mask", "logits")}
    np.savez(tmp_path / "llama" / "reference.npz", **kept)
    return tmp_path / "llama"


def change_reference(subject: Path, **arrays: np.ndarray) -> None:
    with np.load(subject / "reference.npz") as archive:
        kept = dict(archive)
    np.savez(subject / "reference.npz", **kept | arrays)


def test_agreement_is_status_0_and_says_what_was_not_there(subject: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(subject), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"]
    assert [finding["error"] is None for finding in document["findings"]] == [False, True, True, True]


def test_disagreement_is_status_1(subject: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(subject / "reference.npz") as archive:
        wrong = archive["logits"] + 2e-4
    change_reference(subject, logits=wrong)
    assert main([str(subject)]) == 1
    table = capsys.readouterr().out
    assert "BEYOND TOLERANCE" in table
    assert "not in the reference" in table


def test_unusable_directories_are_status_2_with_one_line(subject: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_reference(subject, logits=np.zeros((1, 1, 512), np.float32))
    assert main([str(subject)]) == 2
    change_reference(subject, input_ids=np.full((3, 48), 512))
    assert main([str(subject)]) == 2
    (subject / "reference.npz").write_bytes(b"PK\x03\x04 cut short")
    assert main([str(subject)]) == 2
    assert main([str(subject / "nowhere")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["reference.npz"] * 2
    assert len(lines) == 4


def test_adapter_without_its_base_beside_it_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(PARITY / "llama-lora", tmp_path / "llama-lora")
    assert main([str(tmp_path / "llama-lora")]) == 2
    assert "'../llama' is not a directory beside it" in capsys.readouterr().err
