"""Which rows share a sequence, so that little of a batch is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence

Packs = tuple[tuple[int, ...], ...]
"""For each sequence the numbers of the rows that lie in it, one after the other."""


def one_each(count: int) -> Packs:
    """Every row in a sequence of its own."""
    return tuple((row,) for row in range(count))


def best_fit(lengths: Sequence[int], capacity: int) -> Packs:
    """Longest rows first, each into the sequence that it fills best (best-fit decreasing; Johnson 1973).

    A pure function of the lengths, so a resumed run packs as the run before it. Nothing is cut: each length is at most
    the capacity, in tokens.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(rooms, (lengths[row], -1))
        if place == len(rooms):
            packs.append([])
            rooms.append((capacity, len(packs) - 1))
        room, pack = rooms.pop(place)
        packs[pack].append(row)
        insort(rooms, (room - lengths[row], pack))
    return tuple(tuple(pack) for pack in packs)
