"""Asking twice with one Idempotency-Key does the deed once and answers alike.

The answer is written in the transaction of the deed, so a client that never saw it can simply ask again. Of requests
that arrive at the same moment one is done; the others are told to ask again (409).
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Header
from pydantic import BaseModel
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import IdempotencyRecord
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import canonical_json

Answer = TypeVar("Answer", bound=BaseModel)
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="a text of your own: asking again with it repeats the answer, not the deed",
    ),
]


def once(session: Session, key: str | None, request: BaseModel, kind: type[Answer], do: Callable[[], Answer]) -> Answer:
    """The answer that this key got before, or that of doing it now.

    Raises:
        InvalidInput: the key belongs to another request.
    """
    if key is None:
        return do()
    wanted = canonical_json({"kind": type(request).__name__, "request": request.model_dump(mode="json")})
    sha256 = hashlib.sha256(wanted).hexdigest()
    kept = session.get(IdempotencyRecord, key)
    if kept is None:
        answer = do()
        session.add(IdempotencyRecord(key=key, request_sha256=sha256, answer=answer.model_dump(mode="json")))
        return answer
    if kept.request_sha256 != sha256:
        raise InvalidInput("this key came with another request before: choose a new one", field="Idempotency-Key")
    return kind.model_validate(kept.answer)
