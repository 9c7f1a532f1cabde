import time

import pytest

from tunix_rt_common.errors import NotFound
from tunix_rt_common.ids import new_id, parse_id


def test_ids_are_uuids_of_version_7_that_sort_by_time():
    ids = []
    for _ in range(5):
        ids.append(new_id())
        time.sleep(0.002)
    assert {one.version for one in ids} == {7}
    assert ids == sorted(ids)


def test_ids_made_in_a_burst_are_distinct_and_keep_their_order():
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert ids == sorted(ids)


def test_id_in_a_url_is_parsed():
    some = new_id()
    assert parse_id(str(some), "run") == some


@pytest.mark.parametrize("text", ["", "1", "not-an-id", "x" * 100_000, "0190c2a4-5b7e-7cc3-98c4-dc0c0c07398", "\x00"])
def test_anything_else_names_nothing(text):
    with pytest.raises(NotFound) as refused:
        parse_id(text, "run")
    assert "no run" in str(refused.value)
    assert len(str(refused.value)) < 500
