"""Which split a group of traces belongs to: decided by hashes and exact counts, never by order of arrival."""

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from math import ceil

from tunix_rt_common.datasets import Split


def assign_splits(
    groups: Iterable[str], *, seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Split]:
    """Return the split of each group (hex sha256 of a prompt).

    Groups are ranked by sha256(seed, group). Of n groups the first ceil(test_fraction * n) are test, the last
    ceil(validation_fraction * n) validation, the rest train, so counts are exact and small datasets keep every split
    that was asked for: train first, then test, then validation, when there are fewer groups than splits. The ranking
    depends on nothing but seed and group, so equal groups in any order give equal splits. As a dataset grows, groups
    near the two borders of train can change sides: a prompt that an old version trained on may test the new one.
    """
    ranked = sorted(set(groups), key=lambda group: (hashlib.sha256(f"{seed}:{group}".encode()).digest(), group))
    validation, test = Fraction(str(validation_fraction)), Fraction(str(test_fraction))
    held_out = max(0, len(ranked) - int(validation + test < 1))
    tests = min(ceil(test * len(ranked)), held_out, max(1, held_out - int(validation > 0)))
    validations = min(ceil(validation * len(ranked)), held_out - tests)
    names: list[Split] = ["train"] * len(ranked)
    names[:tests] = ["test"] * tests
    names[len(ranked) - validations :] = ["validation"] * validations
    return dict(zip(ranked, names, strict=True))
