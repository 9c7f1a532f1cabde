"""The artifact store in a bucket of any server that speaks S3."""

from tunix_rt_common.storage.s3.address import S3Address, parse_address
from tunix_rt_common.storage.s3.store import S3Store

__all__ = ["S3Address", "S3Store", "parse_address"]
