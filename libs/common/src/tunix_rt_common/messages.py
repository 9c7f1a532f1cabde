"""What travels through the queue: which job to look at, nothing else.

A message is a doorbell. It may be lost, doubled or late; the job's row in the database says what there is to do.
"""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

QueueName = Literal["train", "evaluate", "registry"]
SERVICES: dict[QueueName, str] = {"train": "trainer", "evaluate": "evaluator", "registry": "registry"}
"""Who serves a queue."""


class Message(BaseModel):
    """Base of all messages; each class names its queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    queue: ClassVar[QueueName]
    job_id: UUID


class TrainJob(Message):
    """Train a model."""

    queue = "train"
    kind: Literal["train"] = "train"


class PlanJob(Message):
    """Tell what a run would need, and train nothing."""

    queue = "train"
    kind: Literal["plan"] = "plan"


class EvaluateJob(Message):
    """Generate, judge, gate."""

    queue = "evaluate"
    kind: Literal["evaluate"] = "evaluate"


class RegisterJob(Message):
    """Register a model version and move its alias."""

    queue = "registry"
    kind: Literal["register"] = "register"


class BuildDatasetJob(Message):
    """Build an immutable dataset version."""

    queue = "registry"
    kind: Literal["build_dataset"] = "build_dataset"


JobKind = Literal["train", "plan", "evaluate", "register", "build_dataset"]
AnyMessage = TrainJob | PlanJob | EvaluateJob | RegisterJob | BuildDatasetJob
MESSAGES: dict[JobKind, type[AnyMessage]] = {
    "train": TrainJob,
    "plan": PlanJob,
    "evaluate": EvaluateJob,
    "register": RegisterJob,
    "build_dataset": BuildDatasetJob,
}
_ANY: TypeAdapter[AnyMessage] = TypeAdapter(Annotated[AnyMessage, Field(discriminator="kind")])


def decode(body: bytes | str) -> AnyMessage:
    """The message in a body; `pydantic.ValidationError` when it is none of ours."""
    return _ANY.validate_json(body)
