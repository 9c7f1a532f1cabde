"""What S3 says when it fails, in words that name the setting to look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError, MaxRetryError

from tunix_rt_common.errors import NotFound, TunixError, Unavailable
from tunix_rt_common.storage.s3.address import FIELD, S3Address

KEY_GONE = "NoSuchKey"
UPLOAD_GONE = "NoSuchUpload"
CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
REGION = f"check region= in {FIELD}"
SPACE = "free some space or collect garbage"
REMEDIES = {
    "AccessDenied": f"{CREDENTIALS}, and that they may list, read, write and delete in the bucket",
    "AllAccessDisabled": f"{CREDENTIALS}, and the bucket's policy",
    "AuthorizationHeaderMalformed": REGION,
    "BadRequest": f"{REGION}, and AWS_SESSION_TOKEN",
    "EntityTooLarge": "raise the server's limit for one object",
    "ExpiredToken": "renew AWS_SESSION_TOKEN",
    "InvalidAccessKeyId": CREDENTIALS,
    "InvalidToken": "renew AWS_SESSION_TOKEN",
    "NoSuchBucket": f"create the bucket, or correct its name in {FIELD}",
    "PermanentRedirect": REGION,
    "QuotaExceeded": SPACE,
    "Redirect": REGION,
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": CREDENTIALS,
    "XAdminUserNotFound": CREDENTIALS,
    "XMinioStorageFull": SPACE,
}


@contextmanager
def translated(address: S3Address) -> Iterator[None]:
    """Raise what S3, its client and the network raise as `NotFound` or `Unavailable`, never as anything else."""
    try:
        yield
    except (MinioException, HTTPError, ParseError, ValueError) as error:
        raise _explained(address, error) from error


@contextmanager
def forgiven(code: str) -> Iterator[None]:
    """Go on after the block when S3 refuses with this code."""
    try:
        yield
    except S3Error as error:
        if error.code != code:
            raise


def _explained(address: S3Address, error: Exception) -> TunixError:
    where = f"bucket {address.bucket} at {address.endpoint}"
    if isinstance(error, S3Error):
        return _refusal(where, error)
    if isinstance(error, HTTPError):
        reason = error.reason if isinstance(error, MaxRetryError) else error
        words = str(reason)[:200]
        return Unavailable(f"{where} does not answer ({words}): check that S3 runs, and endpoint= in {FIELD}")
    return Unavailable(f"{where} does not speak S3 ({str(error)[:200]}): check endpoint= in {FIELD}")


def _refusal(where: str, error: S3Error) -> TunixError:
    if error.code == KEY_GONE:
        return NotFound(f"no object {error.object_name} in {where}")
    remedy = REMEDIES.get(error.code or "", "try again, then look into the log of the S3 server")
    return Unavailable(f"{where} refused: {error.code} ({(error.message or 'no reason given')[:200]}): {remedy}")
