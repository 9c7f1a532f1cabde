"""The buffer between what a job says and the heartbeat that writes it down."""

import threading

from tunix_rt_common.jobreport import Failure, JobReport, Progress, Result, Story


def test_lines_are_taken_once_and_in_order():
    report = JobReport()
    lines = [Progress(step=1), Story(kind="restored", message="from step 1"), Progress(step=2)]
    for line in lines:
        report.hear(line)
    assert report.take() == (lines, {})
    assert report.take() == ([], {})


def test_step_is_the_last_one_told():
    report = JobReport()
    assert report.step is None
    report.hear(Progress(step=3))
    report.hear(Story(kind="checkpoint", message="saved"))
    assert report.step == 3


def test_result_and_failure_are_kept_beside_the_lines():
    report = JobReport()
    report.hear(Result(result={"a": 1}))
    report.hear(Failure(message="no rows"))
    assert (report.result, report.failure, report.take()) == ({"a": 1}, "no rows", ([], {}))


def test_every_line_proves_life():
    report = JobReport()
    before = report.heard_at
    report.hear(Story(kind="a", message="b"))
    assert report.heard_at > before


def test_output_is_kept_apart_by_stream_byte_for_byte():
    report = JobReport()
    report.log("stdout", b"a\xff")
    report.log("stderr", b"\x00")
    report.log("stdout", b"b")
    assert report.take()[1] == {"stdout": b"a\xffb", "stderr": b"\x00"}


def test_what_could_not_be_saved_comes_first_the_next_time():
    report = JobReport()
    report.hear(Progress(step=1))
    report.log("stdout", b"one ")
    taken = report.take()
    report.hear(Progress(step=2))
    report.log("stdout", b"two")
    report.give_back(*taken)
    lines, logs = report.take()
    assert ([line.step for line in lines], logs) == ([1, 2], {"stdout": b"one two"})


def test_nothing_is_lost_between_threads_that_speak_and_one_that_saves():
    report, saved = JobReport(), []

    def speak(number):
        for step in range(500):
            report.hear(Progress(step=number * 1000 + step))

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        saved += report.take()[0]
    saved += report.take()[0]
    assert sorted(line.step for line in saved) == [n * 1000 + step for n in range(4) for step in range(500)]
