import re
from typing import Any

from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState

HOSTILE = '<script>window.hacked = true</script><img src=x onerror="window.hacked = true">' + "unbreakable" * 30


def newest_reading(page: Any) -> int:
    """The last step that the loss chart tells of."""
    label = page.locator(".chart").first.get_attribute("aria-label") or ""
    return int(match[1]) if (match := re.search(r"step (\d+): training", label)) else -1


def wait_for_step(page: Any, step: int) -> None:
    page.wait_for_selector(f'.chart[aria-label*="step {step}: training"]', timeout=10_000)


def test_the_curves_of_a_live_run_grow_without_a_reload(filled: Any, page: Any) -> None:
    stage = filled.claim(run_id := filled.start_run("apples"))
    page.goto(f"{filled.url}/runs/{run_id}")
    page.evaluate("window.loadedOnce = true")
    assert newest_reading(page) == -1
    for step in (20, 40):
        stage.progress(range(step - 20, step + 1), 100)
        wait_for_step(page, step)
    assert page.locator(".chart").first.locator("circle").count() == 3
    assert page.locator(".status progress").get_attribute("value") == "40"
    assert page.evaluate("window.loadedOnce") is True


def test_a_live_page_stops_asking_when_its_run_is_over(filled: Any, page: Any) -> None:
    stage = filled.claim(run_id := filled.start_run("apples"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/live") else None)
    page.goto(f"{filled.url}/runs/{run_id}")
    stage.progress(range(11), 100)
    wait_for_step(page, 10)
    stage.end(Ending(JobState.FAILED, "training diverged", "user_error"))
    page.wait_for_selector("#live .alert")
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(2_500)
    assert asked == []


def test_a_reader_of_the_story_is_not_thrown_back_by_a_renewal(filled: Any, page: Any) -> None:
    stage = filled.claim(run_id := filled.start_run("apples"))
    stage.log("stdout", "line\n" * 500)
    page.goto(f"{filled.url}/runs/{run_id}")
    page.locator(".log").focus()
    page.locator(".log").evaluate("log => { log.scrollTop = -1000 }")
    stage.progress(range(11), 100)
    wait_for_step(page, 10)
    assert page.locator(".log").evaluate("log => [log.scrollTop, log === document.activeElement]") == [-1000, True]


def test_a_server_in_trouble_does_not_wipe_the_page(filled: Any, browser: Any) -> None:
    run_id = filled.start_run("apples")
    tab = browser.new_page()
    tab.route("**/live", lambda route: route.fulfill(status=503, body="<h1>away</h1>"))
    tab.goto(f"{filled.url}/runs/{run_id}")
    tab.wait_for_event("response", lambda response: response.status == 503)
    tab.wait_for_timeout(300)
    assert tab.locator("#live .badge").first.inner_text() == "queued"
    tab.unroute("**/live")
    filled.claim(run_id)
    tab.wait_for_selector("#live .state-running", timeout=10_000)
    tab.close()


def test_hostile_text_neither_runs_nor_breaks_the_layout(site: Any, page: Any) -> None:
    steps = [{"i": 0, "type": "x" * 64, "content": HOSTILE}]
    site.import_traces([{"prompt": HOSTILE, "steps": steps, "final_answer": HOSTILE, "meta": {"category": HOSTILE}}])
    site.build_dataset("apples", validation_fraction=0, test_fraction=0)
    stage = site.claim(run_id := site.start_run("apples", evaluate=None))
    stage.log("stdout", HOSTILE)
    stage.end(Ending(JobState.FAILED, HOSTILE, "user_error"))
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/traces", "/datasets/apples", f"/runs/{run_id}", "/runs"):
        page.goto(site.url + path)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("window.hacked") is None, path
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path


def test_no_page_scrolls_sideways_on_a_phone(filled: Any, page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    evaluation = filled.get("/api/v1/evaluations").json()["items"][0]
    details = ["/datasets/apples", "/models/apples", f"/runs/{evaluation['run_id']}"]
    lists = ["/", "/traces", "/datasets", "/runs", "/leaderboard", "/models"]
    for path in [*lists, *details, f"/evaluations/{evaluation['evaluation_id']}"]:
        page.goto(filled.url + path)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path


def test_a_visitor_finds_a_wrong_answer_and_why_it_is_wrong(filled: Any, page: Any) -> None:
    page.goto(f"{filled.url}/leaderboard")
    page.get_by_role("row", name="apples@2").get_by_role("link", name="evaluation").click()
    page.get_by_role("link", name="wrong", exact=True).click()
    page.locator("details.item summary").first.click()
    item = page.locator("details.item").first
    assert item.locator("pre.text").all_inner_texts() == ["How many apples are 20 and 1?", "21", "22"]
    assert "the judge found it wrong" in item.inner_text()


def test_every_control_can_be_reached_by_keyboard_and_has_a_name(filled: Any, page: Any) -> None:
    page.goto(f"{filled.url}/traces")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    unnamed = (
        "[...document.querySelectorAll('a, button, input')].filter(e => !(e.textContent.trim() || e.labels?.length))"
    )
    assert page.evaluate(f"{unnamed}.length") == 0
