"""Which traces become a dataset."""

import pytest

from tunix_rt_common.db.models import TraceRow
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.traces import Trace
from tunix_rt_registry.selection import prompt_groups, read_rows, select_traces

METAS = [
    {"source": "book", "level": 1},
    {"source": "book", "level": 2},
    {"source": "web", "level": 1},
    {"source": "web"},
    {"source": "book", "level": 1, "checked": True},
    None,
]


def trace(number, meta):
    record = {
        "prompt": f"{number}+{number}=",
        "steps": [{"i": 0, "type": "sum", "content": "add"}],
        "final_answer": str(2 * number),
        "meta": meta,
    }
    return Trace.model_validate(record)


def add_traces(machine, traces):
    """Store traces in order of arrival; their ids."""
    with machine.writing() as session:
        rows = [
            TraceRow(
                content_sha256=one.content_sha256(),
                prompt_sha256=one.prompt_sha256(),
                source=(one.meta or {}).get("source"),
                document=one.model_dump(mode="json"),
            )
            for one in traces
        ]
        for row in rows:
            session.add(row)
            session.flush()
        return [row.id for row in rows]


@pytest.fixture
def ids(machine):
    return add_traces(machine, [trace(number, meta) for number, meta in enumerate(METAS)])


@pytest.fixture
def chosen(machine, ids):
    """The places, in order of arrival, of what a spec selects."""

    def choose(newest=None, **fields):
        with machine.reading() as session:
            return [ids.index(one) for one in select_traces(session, DatasetSpec(name="sums", **fields), newest)]

    return choose


def test_all_keeps_the_order_of_arrival(chosen):
    assert chosen() == [0, 1, 2, 3, 4, 5]
    assert chosen(limit=2) == [0, 1]


def test_latest_takes_the_newest_in_the_order_of_arrival(chosen):
    assert chosen(select="latest", limit=2) == [4, 5]
    assert chosen(select="latest") == [0, 1, 2, 3, 4, 5]
    assert chosen(select="latest", limit=100) == [0, 1, 2, 3, 4, 5]


def test_random_draws_by_seed_and_keeps_the_order_of_arrival(chosen):
    draws = [chosen(select="random", limit=3, seed=seed) for seed in range(20)]
    assert all(len(draw) == 3 and draw == sorted(draw) for draw in draws)
    assert draws[0] == chosen(select="random", limit=3, seed=0)
    assert len({tuple(draw) for draw in draws}) > 5


def test_random_draws_each_trace_about_equally_often(chosen):
    draws = [place for seed in range(200) for place in chosen(select="random", limit=3, seed=seed)]
    assert all(70 < draws.count(place) < 130 for place in range(6))


def test_random_draw_depends_on_content_and_not_on_the_order_of_arrival(machine, open_machine, tmp_path):
    traces = [trace(number, None) for number in range(10)]
    spec, drawn = DatasetSpec(name="sums", select="random", limit=4), []
    reversed_arrival = open_machine(tmp_path / "reversed")
    for one, arrival in ((machine, traces), (reversed_arrival, traces[::-1])):
        add_traces(one, arrival)
        with one.reading() as session:
            drawn.append({row.prompt for row in read_rows(session, select_traces(session, spec, None))})
    reversed_arrival.database.close()
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"source": "book"}, [0, 1, 4]),
        ({"meta.level": "1"}, [0, 2, 4]),
        ({"source": "book", "meta.level": "1"}, [0, 4]),
        ({"meta.checked": "True"}, [4]),
        ({"meta.source": "web"}, [2, 3]),
        ({"source": "nowhere"}, []),
        ({"meta.level": "3"}, []),
    ],
)
def test_filters_on_source_and_meta_all_have_to_hold(chosen, filters, expected):
    assert chosen(filters=filters) == expected


def test_trace_without_the_key_does_not_pass_a_filter_on_it(chosen):
    assert chosen(filters={"meta.level": "None"}) == []


def test_limit_counts_what_passes_the_filters(chosen):
    assert chosen(filters={"meta.level": "1"}, limit=2) == [0, 2]
    assert chosen(select="latest", filters={"meta.level": "1"}, limit=2) == [2, 4]


@pytest.mark.parametrize("select", ["all", "latest", "random"])
def test_nothing_newer_than_the_pinned_trace_counts(chosen, ids, select):
    assert chosen(newest=ids[2], select=select) == [0, 1, 2]


def test_rows_and_groups_come_in_the_order_of_the_selection(machine, ids):
    with machine.reading() as session:
        rows = list(read_rows(session, ids))
        groups = list(prompt_groups(session, ids))
    assert [row.prompt for row in rows] == [f"{number}+{number}=" for number in range(6)]
    assert [row.meta for row in rows] == METAS
    assert sorted(groups) == sorted(row.group for row in rows)
