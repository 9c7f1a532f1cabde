"""The last look before weights are read: whether the run fits the device that this process has."""

from tunix_rt_common.errors import InvalidInput
from tunix_rt_trainer.devices import claimed_device
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.footprint import step_memory
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.plan import refusal_of
from tunix_rt_trainer.engine.subject import Subject
from tunix_rt_trainer.inputs import Description
from tunix_rt_trainer.voice import Voice


def subject_of(described: Description, data: TrainingData, *, on_cpu: bool | None = None) -> Subject:
    """The run as the engine plans it: for what this process has, or for a CPU or an accelerator."""
    spec = described.spec
    teacher = described.teacher and on_device(described.teacher, spec, on_cpu=on_cpu)
    return Subject(on_device(described.config, spec, on_cpu=on_cpu), spec, data, teacher)


def refuse_what_does_not_fit(voice: Voice, described: Description, data: TrainingData) -> None:
    """Compile the run's largest step, which it would compile anyway, and compare what it needs with what there is.

    Raises:
        InvalidInput: it does not fit; the message holds both numbers and the setting that would.
    """

    def tell(words: str) -> None:
        voice.waits()
        voice.story("preflight", words)

    subject, device = subject_of(described, data), claimed_device()
    memory = step_memory(subject, device)
    if refusal := refusal_of(subject, memory, device, tell):
        raise InvalidInput(refusal.message, field="train")
