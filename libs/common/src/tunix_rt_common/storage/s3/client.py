"""One S3 client per process: who it is, how long it waits, how often it tries again."""

import time
from io import BytesIO
from typing import Any, Self
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from tunix_rt_common.errors import Unavailable
from tunix_rt_common.storage.s3.address import S3Address

CONNECT_S = 5.0
READ_S = 60.0
LAST_RETRY_S = 20.0
RETRIES = 2
BUSY = (500, 502, 503, 504)
SEND_BYTES = 1 << 18
CONNECTIONS = 16


def open_client(address: S3Address) -> Minio:
    """The client that moves bytes; to be made in the process that uses it."""
    return _client(address.endpoint, address)


def open_signer(address: S3Address) -> Minio | None:
    """The client that signs links for browsers, without contacting anybody; None where browsers cannot reach S3."""
    return _client(address.public_endpoint, address) if address.public_endpoint else None


def _client(endpoint: str, address: S3Address) -> Minio:
    parts = urlsplit(endpoint)
    return Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=address.region,
        credentials=KeyChain(),
        http_client=BoundedPool(),
    )


class KeyChain(ChainedProvider):
    """Credentials from the environment, the AWS credentials file, or the machine's role, in this order."""

    def __init__(self) -> None:
        quick = PoolManager(timeout=Timeout(connect=1, read=5), retries=False)
        super().__init__([EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=quick)])

    def retrieve(self) -> Credentials:
        """The credentials; `Unavailable` when there are none anywhere."""
        try:
            return super().retrieve()
        except (ValueError, HTTPError) as error:
            raise Unavailable(
                "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
                " or give this machine a role that may use the bucket"
            ) from error


class BoundedRetry(Retry):
    """Tries again after errors of the connection and of a busy server, but not later than `deadline` (monotonic)."""

    def __init__(self, *args: Any, deadline: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._deadline = deadline

    def new(self, **changes: Any) -> Self:
        """The same with other counts, and the same deadline."""
        return super().new(deadline=self._deadline, **changes)

    def is_exhausted(self) -> bool:
        """No tries are left, or no time."""
        return super().is_exhausted() or time.monotonic() > self._deadline


class BoundedPool(PoolManager):
    """Connections on which one call ends within 90 s: the last try begins after 20 s, waits 65 s, and is not repeated.

    `CONNECT_S` is also what one block of a request may take to be sent. Redirects are not followed: a signed request
    is for the server that it was signed for.
    """

    def __init__(self) -> None:
        timeout = Timeout(connect=CONNECT_S, read=READ_S)
        super().__init__(timeout=timeout, maxsize=CONNECTIONS, blocksize=SEND_BYTES)

    def urlopen(self, method: str, url: str, *_: object, **request: Any) -> BaseHTTPResponse:
        """Send a request; its body goes out in blocks, since a socket's timeout covers all that is sent at once."""
        if request.get("body"):
            request["body"] = BytesIO(request["body"])
        return super().urlopen(method, url, redirect=False, retries=_retry(), **request)


def _retry() -> BoundedRetry:
    return BoundedRetry(
        deadline=time.monotonic() + LAST_RETRY_S,
        total=RETRIES,
        redirect=False,
        allowed_methods=None,
        status_forcelist=BUSY,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        respect_retry_after_header=False,
    )
