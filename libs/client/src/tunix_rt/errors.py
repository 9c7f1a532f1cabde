"""What can go wrong between a client and its server.

    ClientError
    ├── ApiError          the server refused the request, or failed at it
    ├── ServerAway        nobody answers, or only somebody who says "later"; the same call may work later
    ├── UnexpectedAnswer  an answer that this client does not understand
    ├── DamagedDownload   the bytes that came are not the bytes that were listed
    └── NotInstalled      a part of Tunix RT that this environment does not have

Each message says what is wrong and what to do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class ClientError(Exception):
    """The root: an error whose message is fit for the user's eyes."""


@dataclass(frozen=True)
class FieldError:
    """One field of a refused request, and what is wrong with it."""

    field: str
    message: str


class ApiError(ClientError):
    """A problem document (RFC 9457): status, title, detail, and the fields at fault where there are some."""

    def __init__(self, status: int, title: str, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)


class ServerAway(ClientError):
    """No answer, or a 502, 503 or 504."""


class UnexpectedAnswer(ClientError):
    """The answer is not what the API of this version gives."""


class DamagedDownload(ClientError):
    """A downloaded file has another sha256 than the server lists; nothing of it is kept."""


class NotInstalled(ClientError):
    """The message holds the install command."""
