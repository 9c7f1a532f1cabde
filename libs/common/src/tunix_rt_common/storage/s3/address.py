"""Which bucket of which S3 server: what an `s3://` URL says."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from tunix_rt_common.errors import InvalidInput

FIELD = "TUNIX_RT_ARTIFACTS_URL"
FORM = "s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=us-east-1"
AWS = "https://s3.amazonaws.com"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*|")
OPTIONS = {"endpoint", "public_endpoint", "region"}


@dataclass(frozen=True)
class S3Address:
    """A bucket, the prefix of our keys in it, and how it is reached: by us, and by browsers where they may."""

    bucket: str
    prefix: str
    endpoint: str
    public_endpoint: str | None
    region: str

    def key(self, name: str) -> str:
        """The object's key for a name of ours."""
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_address(url: str) -> S3Address:
    """The address in a URL; `InvalidInput` says which part is wrong, and repeats no credentials."""
    parts = _split(url)
    if "@" in parts.netloc:
        raise _wrong("has credentials in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - OPTIONS:
        raise _wrong(f"has an unknown option {min(unknown)[:80]!r}: there are {', '.join(sorted(OPTIONS))}")
    endpoint, public = options.get("endpoint"), options.get("public_endpoint")
    return S3Address(
        bucket=_matching(BUCKET, parts.netloc, "bucket"),
        prefix=_matching(PREFIX, parts.path.strip("/"), "prefix"),
        endpoint=AWS if endpoint is None else _endpoint(endpoint, "endpoint"),
        public_endpoint=None if public is None else _endpoint(public, "public_endpoint"),
        region=_matching(REGION, options.get("region", "us-east-1"), "region"),
    )


def _matching(form: re.Pattern[str], value: str, part: str) -> str:
    if not form.fullmatch(value):
        raise _wrong(f"has no usable {part} ({value[:80]!r})")
    return value


def _endpoint(value: str, option: str) -> str:
    parts = _split(value)
    if "@" in parts.netloc:
        raise _wrong(f"has credentials in {option}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    if parts.scheme not in {"http", "https"} or not _has_host(parts) or parts.path.strip("/") or parts.query:
        raise _wrong(f"has no usable {option} ({value[:80]!r}): http://HOST:PORT or https://HOST")
    return f"{parts.scheme}://{parts.netloc}"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _wrong("has a broken host name") from None


def _has_host(parts: SplitResult) -> bool:
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(f"the artifact store's URL {what}; its form is {FORM}", field=FIELD)
