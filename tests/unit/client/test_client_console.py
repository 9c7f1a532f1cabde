from datetime import UTC, datetime

import pytest

from tunix_rt.commands.evaluations import accuracy
from tunix_rt.commands.watch import duration, event_line, numbers_line
from tunix_rt.console import percent, print_error, print_json, print_table, printable, shortened
from tunix_rt.types import Event, Interval, Score


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain ünïcode 😀\n\tindented", "plain ünïcode 😀\n\tindented"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\x00", "a\\x0db\\x00"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_control_characters_are_written_out(text, harmless):
    assert printable(text) == harmless


def test_shortened_text_is_one_line_of_at_most_the_width():
    assert shortened("one\n  two") == "one two"
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


def test_long_cells_are_not_broken_where_nobody_looks(capsys):
    print_table(("id", "note"), [("0190c2a4-5b7e-7cc3-98c4-dc0c0c07398f", "[b]" + "x" * 100)])
    printed = capsys.readouterr().out
    assert "0190c2a4-5b7e-7cc3-98c4-dc0c0c07398f" in printed
    assert "[b]" + "x" * 100 in printed


def test_error_details_that_are_said_already_are_not_repeated(capsys):
    print_error("dataset: nothing there", ["dataset: nothing there", "dataset: is empty"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: dataset: nothing there\n  dataset: is empty\n"


def test_json_keeps_unicode_and_nests_answers(capsys):
    print_json({"score": Interval(low=0.1, high=0.2, confidence=0.95), "name": "ü"})
    assert '"name": "ü"' in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (90_061, "25:01:01")])
def test_durations_are_told_in_hours_minutes_and_seconds(seconds, told):
    assert duration(seconds) == told


def test_numbers_that_were_not_measured_are_left_out():
    assert numbers_line({"loss": 1.25, "tokens_per_s": 12345.6, "eta_s": 65.0, "validation_loss": None}) == (
        "loss 1.2500 · 12,346 tokens/s · 1:05 left"
    )
    assert numbers_line({}) == ""


def test_events_tell_their_attempt_from_the_second_on():
    event = Event(
        event_id=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        stage="train",
        attempt=2,
        kind="state",
        from_state="retry_wait",
        to_state="running",
        message="resumed from step 40",
        detail={},
    )
    assert event_line(event).plain.endswith("train (attempt 2): resumed from step 40")


def test_accuracy_is_told_with_its_interval_where_there_is_one():
    interval = Interval(low=0.25, high=0.75, confidence=0.95)
    assert accuracy(Score(correct=1, scored=2, unscored=0, accuracy=0.5, interval=interval)) == "50.0% [25.0%, 75.0%]"
    assert accuracy(Score(correct=0, scored=0, unscored=3, accuracy=None, interval=None)) == percent(None) == "-"
