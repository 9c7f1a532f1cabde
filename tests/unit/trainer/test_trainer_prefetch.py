"""Items made ahead on a thread of their own."""

import threading

import pytest

from tunix_rt_trainer.engine.prefetch import prefetched


def test_items_come_in_the_order_of_their_keys():
    assert list(prefetched(lambda key: key * key, range(50))) == [key * key for key in range(50)]


def test_no_keys_make_no_items():
    assert list(prefetched(str, [])) == []


def test_the_next_items_are_made_while_one_is_used():
    made = threading.Semaphore(0)

    def make(key):
        made.release()
        return threading.current_thread().name

    items = prefetched(make, range(10), ahead=2)
    assert next(items) != threading.current_thread().name
    assert all(made.acquire(timeout=30) for _ in range(3))
    assert not made.acquire(timeout=0.1)


def test_an_error_comes_in_the_place_of_its_item():
    def make(key):
        if key == 3:
            raise ValueError("no third")
        return key

    items = prefetched(make, range(10))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(items)


def test_who_stops_early_leaves_no_thread_behind():
    items = prefetched(str, range(10**9))
    next(items)
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
