"""What Celery hears of a message: an envelope that we write ourselves, whatever lay in Redis.

Celery trusts what it is sent. A header of an odd type, a body of another shape, or what is no envelope at all raises in
its consumer, which puts the message back and ends; so does the next worker. Headers also set time limits, and callbacks
publish tasks. So only the two texts that our task takes are read from a message, and travel on in an envelope made
anew. What cannot be read becomes an unsigned quotation of its beginning, dropped by the task like all that is unsigned.
"""

import json
from base64 import b64encode
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from kombu.transport import redis
from pydantic import Base64Bytes, BaseModel, TypeAdapter, ValidationError

TASK = "tunix_rt.ring"
TRANSPORT = f"{__name__}:Transport"
MAX_BYTES = 65_536
"""Many times what a message of ours takes; what is longer is not even parsed."""
QUOTED_BYTES = 200


class Ring(BaseModel):
    """What the task takes: a message's text, and its signature."""

    body: str
    signature: str


class _Headers(BaseModel):
    task: Literal["tunix_rt.ring"]


class _Envelope(BaseModel):
    headers: _Headers
    body: Base64Bytes


_CONTENT: TypeAdapter[tuple[Any, Ring, Any]] = TypeAdapter(tuple[Any, Ring, Any])
"""Celery's positional arguments, keyword arguments, and callbacks."""


def unseal(raw: bytes) -> Ring:
    """The texts in an envelope; what is none of ours comes back quoted and unsigned."""
    if len(raw) <= MAX_BYTES:
        try:
            return _CONTENT.validate_json(_Envelope.model_validate_json(raw).body)[1]
        except ValidationError:
            pass
    return Ring(body=f"{len(raw)} bytes: {raw[:QUOTED_BYTES]!r}", signature="")


def seal(ring: Ring, queue: str) -> bytes:
    """An envelope in which nothing but the texts comes from outside."""
    content = [[], ring.model_dump(), {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    identifier = str(uuid4())
    envelope = {
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": TASK, "id": identifier},
        "properties": {
            "delivery_tag": identifier,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
        },
        "body": b64encode(json.dumps(content).encode()).decode(),
    }
    return json.dumps(envelope).encode()


class Client(redis.PrefixedStrictRedis):
    """A Redis client whose BRPOP, the one command that takes messages, answers with envelopes of ours."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """The answer to a command."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        key, raw = answer
        queue = key.decode().partition(redis.Channel.sep)[0]
        return key, seal(unseal(raw), queue)


class Channel(redis.Channel):
    """A channel that speaks through our client."""

    def _get_client(self) -> partial[Client]:
        return partial(Client, global_keyprefix=self.global_keyprefix)


class Transport(redis.Transport):
    """Redis, as the workers hear it."""

    Channel = Channel
