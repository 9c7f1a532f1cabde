"""Messages: a kind and a job's id, nothing else."""

import json
from typing import get_args

import pytest
from pydantic import ValidationError

from tunix_rt_common.messages import MESSAGES, JobKind, QueueName, decode

JOB_ID = "019a0000-0000-7000-8000-000000000001"


@pytest.mark.parametrize("kind", get_args(JobKind))
def test_message_survives_the_wire(kind):
    message = MESSAGES[kind](job_id=JOB_ID)
    assert decode(message.model_dump_json()) == message
    assert message.kind == kind
    assert message.queue in get_args(QueueName)


def test_message_carries_nothing_but_kind_and_id():
    for message in MESSAGES.values():
        assert set(message.model_fields) == {"kind", "job_id"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\x80\x04K\x01.",
        json.dumps({"kind": "train"}),
        json.dumps({"kind": "shred", "job_id": JOB_ID}),
        json.dumps({"kind": "train", "job_id": "1"}),
        json.dumps({"kind": "train", "job_id": JOB_ID, "payload": {}}),
        json.dumps({"job_id": JOB_ID}),
    ],
)
def test_body_that_is_none_of_ours_is_refused(body):
    with pytest.raises(ValidationError):
        decode(body)
