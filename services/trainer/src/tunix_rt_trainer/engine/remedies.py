"""What would make a run fit: settings are tried, from the one that changes least, until the compiler confirms one.

Computing layers again in the backward pass and more accumulation change no result. Adapters train less of the model,
over a base in 4 bits they do so less exactly. A smaller `max_tokens` drops rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunix_rt_common.plans import Memory, Remedy, Setting
from tunix_rt_common.specs import LoraSpec, TrainSpec
from tunix_rt_modeling.sharding import batch_shards
from tunix_rt_trainer.engine.batches import SHORTEST_BUCKET, bucket
from tunix_rt_trainer.engine.device import mesh_of
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.footprint import longest_padded, resident_memory, step_memory
from tunix_rt_trainer.engine.subject import Device, Subject

Changes = Mapping[str, Any]
"""Fields of the training spec, with their values."""


@dataclass(frozen=True)
class Search:
    """A run that needs more than its device has. `trying` hears of each setting before it is compiled."""

    subject: Subject
    needed: Memory
    device: Device
    trying: Callable[[str], None]

    def remedy(self) -> Remedy | None:
        """The first setting that fits; None where none does."""
        starts = self._starts()
        larger: dict[int, tuple[Subject, Memory]] = {}
        if self.subject.spec.remat == "full":
            larger[0] = self.subject, self.needed
        for candidates in (self._smaller_parts, self._shorter_sequences):
            for number, start in enumerate(starts):
                for changes in candidates(start):
                    changed = self.subject.changed(self._changed(changes))
                    if self._is_hopeless(changed, *larger.get(number, ())):
                        continue
                    self.trying(", ".join(f"{name} {value}" for name, value in self._settings(changes).items()))
                    larger[number] = changed, (memory := step_memory(changed, self.device))
                    if memory.needed_bytes <= self.device.memory_bytes:
                        return self._as_remedy(changes, memory)
        return None

    def _starts(self) -> list[Changes]:
        """Ways to train: as asked for, by adapters, by adapters over a frozen base in 4 bits."""
        given, frugal = self.subject.spec.lora, {"remat": "full"}
        adapters = [given or LoraSpec(), (given or LoraSpec()).model_copy(update={"base": "nf4"})]
        return [frugal, *({**frugal, "lora": lora} for lora in adapters if lora != given)]

    def _smaller_parts(self, start: Changes) -> Iterator[Changes]:
        """Ever smaller micro-batches, the given one first."""
        return ({**start, "accumulation": parts} for parts in self._accumulations())

    def _accumulations(self) -> list[int]:
        """Into how many micro-batches a batch can be cut that the mesh divides, the given number first."""
        given, whole = self.subject.spec.accumulation, self.subject.spec.batch_size
        shards = batch_shards(mesh_of(self.subject.spec))
        return [parts for parts in range(given, whole + 1) if whole % parts == 0 and whole // parts % shards == 0]

    def _shorter_sequences(self, start: Changes) -> Iterator[Changes]:
        """Ever shorter sequences, in the smallest micro-batches, as long as there is a row that fits into them."""
        shortest, longest = max(min(row_lengths(self.subject.rows)), SHORTEST_BUCKET), longest_padded(self.subject)
        lengths = {bucket(tokens) for tokens in range(shortest, longest)} - {longest}
        smallest = {**start, "accumulation": self._accumulations()[-1]}
        return ({**smallest, "max_tokens": tokens} for tokens in sorted(lengths, reverse=True))

    def _is_hopeless(
        self, changed: Subject, larger: Subject | None = None, larger_memory: Memory | None = None
    ) -> bool:
        """Whether it does not fit even if activations shrink with tokens and length as those of attention, at best."""
        needed_bytes = resident_memory(changed, self.device).needed_bytes
        if larger and larger_memory:
            tokens, length = _micro_tokens(changed) / _micro_tokens(larger), longest_padded(changed)
            needed_bytes += int(larger_memory.activations_bytes * tokens * length / longest_padded(larger))
        return needed_bytes > self.device.memory_bytes

    def _as_remedy(self, changes: Changes, memory: Memory) -> Remedy:
        limit = self._changed(changes).max_tokens
        dropped = sum(length > limit for length in row_lengths(self.subject.rows))
        return Remedy(settings=self._settings(changes), needed_bytes=memory.needed_bytes, dropped=dropped)

    def _settings(self, changes: Changes) -> dict[str, Setting]:
        """The changes as a user sets them; a field that is so already is left out."""
        spec = self.subject.spec
        changed = {name: value for name, value in changes.items() if getattr(spec, name) != value}
        settings: dict[str, Setting] = {}
        if "lora" in changed:
            lora: LoraSpec = changed.pop("lora")
            settings |= {} if spec.lora else {"train.lora.rank": lora.rank}
            settings |= {"train.lora.base": lora.base} if lora.base != "float32" else {}
        return settings | {f"train.{name}": value for name, value in changed.items()}

    def _changed(self, changes: Changes) -> TrainSpec:
        return self.subject.spec.model_copy(update=dict(changes))


def row_lengths(rows: EncodedRows) -> list[int]:
    """Tokens of each example's longest row."""
    sides = 2 if rows.paired else 1
    lengths = list(map(len, rows.token_ids))
    return [max(lengths[start : start + sides]) for start in range(0, len(lengths), sides)]


def _micro_tokens(subject: Subject) -> int:
    return subject.spec.batch_size // subject.spec.accumulation * longest_padded(subject)
