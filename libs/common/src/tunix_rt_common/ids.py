"""Identifiers: UUIDv7, so that ids sort by time and index well."""

from uuid import UUID

from uuid_utils.compat import uuid7

from tunix_rt_common.errors import NotFound


def new_id() -> UUID:
    """A fresh UUIDv7 (RFC 9562)."""
    return uuid7()


def parse_id(text: str, noun: str) -> UUID:
    """The UUID that a URL names; anything else names nothing, hence `NotFound`."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"no {noun} {text[:80]!r}: an id looks like 0190c2a4-5b7e-7cc3-98c4-dc0c0c07398f") from None


def storable_name(text: str, noun: str) -> str:
    """A name that a URL gives, if a database can be asked for it: Postgres knows no NUL, so nothing is called so."""
    if "\0" in text:
        raise NotFound(f"no {noun} {text[:80]!r}: a name holds no NUL")
    return text
