"""Numbers, times and hashes as a person reads them: the filters of the templates."""

import json
import math
from datetime import datetime
from typing import Any

_SCALES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count(value: int) -> str:
    """An exact integer with thin groups: 12 345."""
    return f"{value:,}".replace(",", "\u202f")


def short_number(value: float) -> str:
    """At most four significant digits: 0.1235, 12.3k, 1.5M."""
    for limit, scale, suffix in _SCALES:
        if abs(value) >= limit:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share of one as per cent: 0.8251 is 82.5 %; a dash for None."""
    return "\u2013" if share is None else f"{share * 100:.1f}\u202f%"


def points(share: float) -> str:
    """A difference of two shares in signed percentage points: +4.2 points."""
    return f"{share * 100:+.1f} points".replace("-", "\u2212")


def byte_size(size_bytes: int) -> str:
    """A size in binary units: 1.5 MiB."""
    power = min(int(math.log(size_bytes, 1024)), len(_BYTE_UNITS) - 1) if size_bytes else 0
    return f"{size_bytes / 1024**power:.4g}\u202f{_BYTE_UNITS[power]}"


def duration(seconds: float) -> str:
    """A time span by its two largest units: 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute:02} min"
    return f"{minutes} min {second:02} s" if minutes else f"{second} s"


def short_duration(seconds: float) -> str:
    """A time span as exactly as it is short: 12 ms, 3.4 s, and from a minute on as `duration` says it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


def moment(time: datetime) -> str:
    """An aware time to the second, UTC by design of the database."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def minute(time: datetime) -> str:
    """An aware time to the minute, for tables with little room."""
    return f"{time:%Y-%m-%d %H:%M}"


def short_hash(digest: str) -> str:
    """The beginning of a digest; the whole belongs into a title beside it."""
    return digest[:12]


def pretty_json(value: Any) -> str:
    """JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
