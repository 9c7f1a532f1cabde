import html
import re
from typing import Any

import pytest

from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState

HOSTILE = '<script>window.hacked = true</script><img src=x onerror="window.hacked = true">'


def hrefs(page: str, label: str) -> list[str]:
    return [html.unescape(href) for href in re.findall(rf'<a [^>]*href="([^"]*)"[^>]*>{label}</a>', page)]


def only_run(site: Any, state: str) -> dict[str, Any]:
    return dict(site.get(f"/api/v1/runs?state={state}").json()["items"][0])


def every_page(site: Any) -> list[str]:
    """The path of each kind of page."""
    evaluation = site.get("/api/v1/evaluations").json()["items"][0]
    lists = ["/", "/traces", "/datasets", "/runs", "/leaderboard", "/models"]
    run, failed = evaluation["run_id"], only_run(site, "failed")["run_id"]
    details = ["/datasets/apples", f"/runs/{run}", f"/runs/{failed}", "/models/apples"]
    return [*lists, *details, f"/runs/{run}/live", f"/evaluations/{evaluation['evaluation_id']}"]


def test_every_page_tells_the_browser_to_run_nothing_but_our_files(filled: Any) -> None:
    for path in every_page(filled):
        page = filled.get(path)
        assert page.status == 200, path
        assert page.headers["content-security-policy"].startswith("default-src 'self';"), path
        assert page.headers["content-type"] == "text/html; charset=utf-8", path
        assert not re.search(r"<[^>]* (style|on\w+)=|<style|<script>|javascript:", page.text), path


def test_hostile_text_is_shown_as_text_on_every_page(site: Any) -> None:
    step = {"i": 0, "type": HOSTILE[:60], "content": HOSTILE}
    meta = {"category": HOSTILE, "source": HOSTILE}
    site.import_traces([{"prompt": HOSTILE, "steps": [step], "final_answer": HOSTILE, "meta": meta}])
    site.build_dataset("apples", validation_fraction=0, test_fraction=0)
    stage = site.claim(site.start_run("apples", evaluate=None))
    stage.log("stderr", HOSTILE)
    stage.end(Ending(JobState.FAILED, HOSTILE, "user_error"))
    run_id = only_run(site, "failed")["run_id"]
    for path in ["/traces", "/datasets/apples", f"/runs/{run_id}", f"/traces?source={'%3Cscript%3E'}"]:
        page = site.get(path).text
        assert "<script>" not in page, path
        assert "<img src=x" not in page, path
        assert "&lt;script&gt;" in page, path


def test_an_unknown_run_is_a_page_and_in_the_api_a_problem(site: Any) -> None:
    missing = "01890000-0000-7000-8000-000000000000"
    page, problem = site.get(f"/runs/{missing}"), site.get(f"/api/v1/runs/{missing}")
    assert (page.status, problem.status) == (404, 404)
    assert f"no run {missing}" in page.text
    assert page.headers["content-type"].startswith("text/html")
    assert problem.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/runs/x", "/datasets/x", "/models/x", "/evaluations/x", "/nowhere", "/static/x"])
def test_what_does_not_exist_is_a_page_with_a_way_home(site: Any, path: str) -> None:
    page = site.get(path)
    assert page.status == 404
    assert hrefs(page.text, "Home") == ["/"]


def test_an_unknown_filter_is_refused_by_name(site: Any) -> None:
    page = site.get("/runs?state=sleeping")
    assert page.status == 422
    assert "query.state" in page.text


def test_errors_outside_the_pages_stay_problems(site: Any) -> None:
    for path in ("/api/v1/nowhere", "/healthz/x", "/api"):
        assert site.get(path).headers["content-type"] == "application/problem+json", path


def test_an_empty_site_says_what_to_type_and_moves_on_with_each_step(site: Any) -> None:
    assert "tunix-rt traces import" in site.get("/").text
    site.import_traces([{"prompt": "1+1?", "completion": "2"}])
    assert "tunix-rt datasets build" in site.get("/").text
    site.build_dataset("sums", validation_fraction=0, test_fraction=0)
    assert "tunix-rt runs create --dataset sums" in site.get("/").text


def test_following_the_cursor_shows_every_trace_once(filled: Any) -> None:
    seen: list[str] = []
    path = "/traces?source=pages"
    while path:
        page = filled.get(path).text
        seen += re.findall(r'class="prompt">A crate holds (\d+)', page)
        path = next(iter(hrefs(page, "Older")), "")
    assert seen == [str(number) for number in range(60, 0, -1)]


def test_a_source_nobody_has_shows_no_trace(filled: Any) -> None:
    assert "No trace has this source" in filled.get("/traces?source=elsewhere").text


def test_the_state_filter_shows_that_state_alone(filled: Any) -> None:
    rows = re.findall(r'<td><span class="badge state-(\w+)"', filled.get("/runs?state=failed").text)
    assert rows == ["failed"]


def test_the_preview_marks_what_the_loss_counts(filled: Any) -> None:
    page = filled.get("/datasets/apples?split=test&target=answer").text
    shown = filled.get("/api/v1/datasets/apples/preview?split=test&target=answer").json()
    trained = ["".join(part["text"] for part in row["segments"] if part["trained"]) for row in shown]
    marked = [html.unescape(text) for text in re.findall(r'<mark class="trained">([^<]*)</mark>', page)[1:]]
    assert marked == trained


def test_the_leaderboard_keeps_apart_what_cannot_be_compared(filled: Any) -> None:
    page = filled.get("/leaderboard").text
    tables = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    assert [re.findall(r'href="/models/\w+">([^<]*)</a>', table) for table in tables] == [
        ["apples@1", "apples@2"],
        ["pears@1"],
    ]
    assert page.count("not comparable with the tables above") == 1


def test_the_leaderboard_draws_each_interval(filled: Any) -> None:
    labels = re.findall(r'class="interval"[^>]*aria-label="([^"]*)"', filled.get("/leaderboard").text)
    assert [label.replace("\u202f", "") for label in labels] == [
        "76.3%, 95 % interval 64.0% to 85.3%",
        "33.9%, 95 % interval 23.1% to 46.6%",
        "97.4%, 95 % interval 86.8% to 99.5%",
    ]


def test_items_of_one_outcome_are_shown_page_by_page(filled: Any) -> None:
    losing = filled.get("/api/v1/evaluations").json()["items"][1]["evaluation_id"]
    path, seen = f"/evaluations/{losing}?outcome=wrong", []
    while path:
        page = filled.get(path).text
        seen += re.findall(r'class="prompt">How many apples are (\d+)', page)
        path = next(iter(hrefs(page, "Next")), "")
    assert seen == [str(number) for number in range(20, 59)]


def test_an_evaluation_tells_its_verdict_in_words(filled: Any) -> None:
    losing = filled.get("/api/v1/evaluations").json()["items"][1]
    page = html.unescape(filled.get(f"/evaluations/{losing['evaluation_id']}").text)
    assert losing["decision"] == "NO-GO"
    assert losing["reason"] in page


def test_a_models_page_lists_every_file_with_its_hash(filled: Any) -> None:
    page = filled.get("/models/apples").text
    for version in filled.get("/api/v1/models/apples/versions").json():
        for file in version["files"]:
            assert file["sha256"] in page
            path = f"/api/v1/models/apples/versions/{version['version']}/files/{file['path']}"
            assert path in page
            assert filled.get(path).status == 200


def test_a_long_run_makes_a_page_of_bounded_size(filled: Any) -> None:
    stage = filled.claim(run_id := filled.start_run("apples"))
    stage.progress(range(4_001), 4_000)
    stage.log("stdout", "step\n" * 100_000)
    page = filled.get(f"/runs/{run_id}/live")
    assert "step 4000: training" in page.text
    assert len(page.text) < 120_000
