from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tunix_rt_common.reports import (
    CheckpointManifest,
    EvalReport,
    FileEntry,
    ItemResult,
    ServedModel,
    digest,
    eval_set_sha256,
)

SHA = "0" * 64


def manifest(*paths: str, **changes: Any) -> CheckpointManifest:
    return CheckpointManifest(
        **{
            "run_id": "run",
            "job_id": "job",
            "step": 10,
            "files": [{"path": path, "sha256": SHA, "size_bytes": 1} for path in paths],
            "dataset_sha256": SHA,
            "tokenizer_sha256": SHA,
            "base_model_sha256": SHA,
            "spec_sha256": SHA,
            "versions": {"jax": "0.10"},
            "device_kind": "cpu",
            "xla_flags": "",
        }
        | changes
    )


def test_equal_documents_have_one_digest_whatever_the_order_of_their_keys() -> None:
    one, other = (
        manifest("a", versions=versions) for versions in ({"jax": "1", "flax": "2"}, {"flax": "2", "jax": "1"})
    )
    assert digest(one) == digest(other)
    assert digest(one) != digest(manifest("b", versions={"jax": "1", "flax": "2"}))


def test_document_survives_the_store(make_report: Callable[..., EvalReport]) -> None:
    report = make_report("+-?")
    again = EvalReport.model_validate_json(report.model_dump_json())
    assert again == report
    assert digest(again) == digest(report)


def test_report_of_another_servers_answers_says_whose(make_report: Callable[..., EvalReport]) -> None:
    report = make_report("+-", endpoint=ServedModel(url="http://a/v1", model="b"))
    assert EvalReport.model_validate_json(report.model_dump_json()) == report
    assert report.model_dump(mode="json")["endpoint"] == {"url": "http://a/v1", "model": "b"}


def test_report_of_our_own_answers_has_the_bytes_it_had_before_there_were_others(
    make_report: Callable[..., EvalReport],
) -> None:
    assert "endpoint" not in make_report("+-").model_dump(mode="json")


@pytest.mark.parametrize("path", ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\\b", "a\x00"])
def test_path_outside_the_checkpoint_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        FileEntry(path=path, sha256=SHA, size_bytes=1)


def test_path_listed_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="same path"):
        manifest("params/0", "params/0")


def test_unknown_field_and_malformed_digest_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        manifest("a", colour="blue")
    with pytest.raises(ValidationError, match="dataset_sha256"):
        manifest("a", dataset_sha256="not a digest")


def test_item_listed_twice_is_refused(make_report: Callable[..., EvalReport]) -> None:
    report = make_report("++")
    with pytest.raises(ValidationError, match="item_id"):
        EvalReport(**{**dict(report), "items": (report.items[0], report.items[0])})


def test_evaluation_set_is_known_by_its_questions_and_not_by_the_answers(
    make_items: Callable[..., tuple[ItemResult, ...]],
) -> None:
    items = make_items("+-")
    assert eval_set_sha256(items) == eval_set_sha256(make_items("-+"))
    assert eval_set_sha256(items) != eval_set_sha256(items[::-1])
    assert eval_set_sha256(items) != eval_set_sha256([items[0], items[1].model_copy(update={"expected": "43"})])
