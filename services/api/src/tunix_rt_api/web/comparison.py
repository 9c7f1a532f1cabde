"""Which scores may be compared: those that one judge gave for the same items."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunix_rt_api.evaluations.schemas import LeaderboardRow


@dataclass(frozen=True)
class ComparableGroup:
    """Versions judged alike, best first."""

    eval_set_sha256: str
    judge: str
    rows: Sequence[LeaderboardRow]


def comparable_groups(rows: Iterable[LeaderboardRow]) -> list[ComparableGroup]:
    """Rows by evaluation set and judge; the group with the most rows, then the one judged last, comes first."""
    found: dict[tuple[str, str], list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        found[row.eval_set_sha256, row.judge].append(row)
    groups = [ComparableGroup(*key, members) for key, members in found.items()]
    return sorted(groups, key=lambda group: (len(group.rows), max(row.created_at for row in group.rows)), reverse=True)
