"""The page in a real browser: it shows what the searcher says, to eyes, keyboards and screen readers alike."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tesserec.index.bundle import Bundle
from tests.serving.films import CELLS, DEAD, HOSTILE, in_memory, publish_films, without_interests
from tests.serving.live import NEEDED, browsing, chromium, serving

for package in NEEDED:
    pytest.importorskip(package, reason="browser tests need starlette, uvicorn and playwright")

AXE = "4.14.1"
LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 812}
VIEWS = {"map": ".map .cell", "map/2": "#panel .items", "user": ".small .map .cell", "codebook": ".tiles"}
HISTORY = [100, 107, 113, 121, 130]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pytest.importorskip("onnx", reason="publishing a network needs onnx")
    root = tmp_path_factory.mktemp("explorer") / "bundles"
    publish_films(root)
    return publish_films(root, moved=30)


@pytest.fixture(scope="module")
def address(bundle):
    with serving(lambda: bundle, history_of={"anna": HISTORY}.get) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium found; run tests/system-packages.sh, or name one in CHROMIUM")
    with browsing() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a page; at the end it must have logged no error and asked for nothing from elsewhere."""
    contexts, complaints, asked = [], [], []

    def note(message, refusals):
        if message.type == "error" and not (refusals and "status of 422" in message.text):
            complaints.append(message.text)

    def open_page(address, view="map", ready=None, refusals=False, **options):
        context = browser.new_context(**{"viewport": LAPTOP, "reduced_motion": "reduce", **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: note(message, refusals))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}#/{view}")
        page.wait_for_selector(ready or VIEWS.get(view.split("?")[0], "main h1"))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.split("/explorer/")[0] for url in asked} <= {asked[0].split("/explorer/")[0]}


def of_user(history=HISTORY, **settings):
    return "user?" + "&".join([*(f"i={i}" for i in history), *(f"{name}={value}" for name, value in settings.items())])


def announced(page, pattern):
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.getElementById('status').textContent)", arg=pattern
    )
    return page.locator("#status").text_content()


def test_the_map_shows_every_living_interest_and_the_table_the_same(opened, address, bundle):
    page = opened(address)
    circles = page.locator(".map .cell")
    codes = sorted(int(one.get_attribute("data-interest")) for one in circles.all())
    assert codes == [code for code in range(CELLS) if code != DEAD]
    names = bundle.searcher.names
    for one in circles.all():
        code = int(one.get_attribute("data-interest"))
        label = one.get_attribute("aria-label")
        assert label.startswith(f"{names['name'][code]}, {names['items'][code]} items, ")
    assert "1 interest without items is not drawn" in page.locator("#panel").inner_text()
    page.get_by_text("The map as a table").click()
    assert page.locator(".figure tbody tr").count() == len(codes)


def test_colours_tell_little_traffic_from_none(opened, address, bundle):
    with serving(lambda: bundle, traffic=lambda: {2: 30, 5: 10}) as visited:
        page = opened(visited)
        steps = page.locator(".map .cell").evaluate_all(
            "cells => Object.fromEntries(cells.map(cell => [cell.dataset.interest, cell.classList[1]]))"
        )
        assert {code for code, step in steps.items() if step != "step-0"} == {"2", "5"}
        assert steps["2"] == "step-4"
        assert page.locator(".scale li").first.inner_text() == "up to 0.0 %"


def nearest(centres, code, key):
    """The circle that an arrow key should reach: ahead, and as little aside as may be; itself where there is none."""
    ahead = np.array({"ArrowRight": (1, 0), "ArrowLeft": (-1, 0), "ArrowDown": (0, 1), "ArrowUp": (0, -1)}[key])
    away = {other: centre - centres[code] for other, centre in centres.items()}
    costs = {other: step @ ahead + 2 * np.abs(step @ ahead[::-1]) for other, step in away.items() if step @ ahead > 1}
    return min(costs, key=costs.get, default=code)


def test_the_map_is_walked_by_keyboard(opened, address):
    page = opened(address)
    page.locator("nav a").last.focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.interest"
    first = page.evaluate(focused)
    centres = {
        one["code"]: np.array([one["x"], one["y"]])
        for one in page.locator(".map .cell").evaluate_all(
            "cells => cells.map(cell => [cell.dataset.interest, cell.firstChild]).map(([code, circle]) => "
            "({ code, x: circle.cx.baseVal.value, y: circle.cy.baseVal.value }))"
        )
    }
    for key in ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"] * 4:
        before = page.evaluate(focused)
        page.keyboard.press(key)
        assert page.evaluate(focused) == nearest(centres, before, key)
    page.keyboard.press("Home")
    assert page.evaluate(focused) == first
    by_size = [first]
    for _ in centres:
        page.keyboard.press("PageDown")
        by_size.append(page.evaluate(focused))
    assert by_size == [*centres, list(centres)[-1]]
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.activeElement.querySelector('circle')).strokeWidth") == "4px"
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel .items")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.url.endswith(f"#/map/{first}")
    announced(page, "shown beside the map")
    page.keyboard.press("Escape")
    page.wait_for_selector(".cell[aria-pressed='true']", state="detached")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.interest") is None


def test_a_user_is_what_the_searcher_says(opened, address, bundle):
    page = opened(address, of_user())
    page.wait_for_selector(".groups li")
    expected = bundle.searcher.recommend([HISTORY], 20)
    shown = {
        int(one.get_attribute("value")): one.get_attribute("data-item") for one in page.locator(".groups li").all()
    }
    assert [shown[rank] for rank in sorted(shown)] == [str(i) for i in expected["item"]]
    believed = bundle.searcher.interests([HISTORY], CELLS)
    rows = page.locator(".beliefs tbody tr[data-interest]")
    assert [int(row.get_attribute("data-interest")) for row in rows.all()] == believed["interest"].to_list()
    for row, chance in zip(rows.all(), believed["probability"], strict=True):
        assert row.locator(".chance .value").inner_text() == f"{100 * chance:.1f} %"
    widths = [
        row.locator(".chance .bar").evaluate("bar => bar.style.getPropertyValue('--length')") for row in rows.all()
    ]
    ratios = [float(width.rstrip("%")) / 100 for width in widths]
    assert ratios == pytest.approx(
        [chance / believed["probability"][0] for chance in believed["probability"]], abs=1e-4
    )
    cells = bundle.searcher.cells[[i - 100 for i in HISTORY]].tolist()
    for row in rows.all():
        assert row.locator(".events circle").count() == cells.count(int(row.get_attribute("data-interest")))


def test_a_stored_user_is_found_by_id(opened, address, bundle):
    page = opened(address, "user?user=anna", ready=".groups li", refusals=True)
    assert page.locator(".history li").count() == len(HISTORY)
    page.locator("#id").fill("nobody")
    with page.expect_response("**/api/user"):
        page.get_by_role("button", name="Show").click()
    assert "user 'nobody' has no events here" in page.get_by_role("alert").inner_text()


def test_sliders_change_the_list_and_say_so(opened, address, bundle):
    page = opened(address, of_user())
    page.wait_for_selector(".groups li")
    page.locator("#explore").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    told = announced(page, "Exploration 40 percent")
    usual = bundle.searcher.recommend([HISTORY], 20)
    now = bundle.searcher.recommend([HISTORY], 20, explore=0.4)
    entered = set(now["item"]) - set(usual["item"])
    assert entered
    assert f"{len(entered)} candidate" in told
    marked = {one.get_attribute("data-item") for one in page.locator(".groups li:has(.tag.new)").all()}
    assert marked == {str(i) for i in entered}
    gone = {one.get_attribute("data-item") for one in page.locator(".gone li").all()}
    assert gone == {str(i) for i in set(usual["item"]) - set(now["item"])}
    explored = {int(one.get_attribute("data-interest")) for one in page.locator(".group.explored").all()}
    assert explored == set(now.filter("explored")["interest"])
    assert "explore=0.4" in page.url
    page.locator("#interests").fill("1")
    announced(page, "1 interest:")
    page.get_by_role("button", name="Model's own settings").click()
    announced(page, "the list is that of the model's own settings")


def test_a_history_is_built_by_title_and_taken_apart(opened, address):
    page = opened(address, "user?empty=", ready="#search")
    page.wait_for_selector("text=The history is empty")
    page.locator("#search").fill("film 14")
    announced(page, "11 titles found")
    page.get_by_role("button", name="Film 142").click()
    page.wait_for_selector(".history li")
    assert page.locator(".history li span").all_inner_texts() == ["Film 142"]
    page.get_by_role("button", name="Remove Film 142").press("Enter")
    page.wait_for_selector("text=The history is empty")
    assert page.evaluate("document.activeElement.id") == "search"


def test_a_hostile_title_is_shown_as_text(opened, address, bundle):
    page = opened(address, of_user([100]))
    page.wait_for_selector(".groups li")
    assert page.locator(".history li span").all_inner_texts() == [HOSTILE]
    page.goto(f"{address}#/map/{int(bundle.searcher.cells[0])}")
    page.wait_for_selector("#panel .items")
    page.goto(f"{address}#/user?empty=")
    page.locator("#search").fill("<img")
    page.wait_for_selector(".found button")
    assert page.locator(".found button").all_inner_texts() == [HOSTILE]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0


def test_codebook_health_is_drawn_and_tabled(opened, address):
    page = opened(address, "codebook")
    assert page.locator(".chart rect").count() == CELLS
    rows = page.locator("main table tbody tr").all_inner_texts()
    assert len(rows) == 2
    assert "2 (served)" in rows[1]
    assert "20.0 %" in rows[1]


@pytest.mark.parametrize("view", [*VIEWS, of_user()])
def test_a_phone_never_scrolls_sideways(opened, address, view):
    page = opened(address, view, viewport=PHONE)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("kind", ["popularity", "item-knn", "slots"])
def test_a_model_without_interests_says_so(opened, kind, tmp_path):
    bundle = in_memory(without_interests(kind), tmp_path)
    with serving(lambda: bundle) as address:
        page = opened(address, ready="main h1")
        assert "This model has no interests" in page.locator("main").inner_text()
        page.get_by_role("link", name="What this model recommends").click()
        page.wait_for_selector(".groups li")
        assert "This model has no interests" in page.locator("main").inner_text()


def test_a_refusal_is_shown_where_the_answer_would_be(opened, address):
    page = opened(address, "map/77", ready="#panel [role=alert]", refusals=True)
    assert "interest 77 does not exist" in page.locator("#panel").inner_text()
    page.locator(".map .cell").first.click()
    page.wait_for_selector("#panel .items")


def test_a_failure_of_the_service_is_told(opened, address):
    page = opened(address, of_user(), ready=".groups li", refusals=True)
    page.route("**/api/invented/*", lambda route: route.fulfill(json={"error": "it is <b>busy</b>"}, status=422))
    page.get_by_role("button", name="Invent a user").click()
    page.wait_for_selector("[role=alert]")
    assert page.get_by_role("alert").inner_text() == "it is <b>busy</b>"


def test_links_on_a_phone_can_be_hit_with_a_finger(opened, address):
    page = opened(address, of_user(explore=0.4), viewport=PHONE)
    page.wait_for_selector(".beliefs a")
    heights = page.evaluate("[...document.querySelectorAll('.beliefs a')].map((a) => a.getBoundingClientRect().height)")
    assert heights
    assert min(heights) >= 24
    assert "propensity" not in page.locator("main").inner_text()  # every item is certain, which need not be said


def test_a_swapped_generation_is_named_at_the_next_view(opened, bundle):
    served = [Bundle.open(bundle.path.parent, 1), bundle]
    with serving(lambda: served[0]) as swapping:
        page = opened(swapping)
        assert "generation 1" in page.locator("#facts").inner_text()
        served.pop(0)
        page.get_by_role("link", name="Codebook").click()
        page.wait_for_selector(".tiles")
        assert "generation 2" in page.locator("#facts").inner_text()


# Contrast and names are measured by axe where npm can fetch it; what it cannot see is checked above.
@pytest.fixture(scope="module")
def axe(request, tmp_path_factory):
    script = Path(request.config.cache.mkdir("axe-core")) / f"{AXE}.js"
    if not script.exists():
        if (npm := shutil.which("npm")) is None:
            pytest.skip("axe-core comes from npm, which is not installed; names and roles are checked by other tests")
        folder = tmp_path_factory.mktemp("axe")
        try:
            subprocess.run([npm, "pack", f"axe-core@{AXE}"], cwd=folder, capture_output=True, timeout=60, check=True)
        except subprocess.SubprocessError as error:
            pytest.skip(f"npm could not fetch axe-core ({error})")
        subprocess.run(["tar", "xzf", f"axe-core-{AXE}.tgz"], cwd=folder, check=True)
        os.replace(shutil.copy(folder / "package" / "axe.min.js", f"{script}.{os.getpid()}"), script)
    return script.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["map/2", of_user(explore=0.4), "codebook"])
def test_axe_finds_nothing(opened, address, axe, view, scheme):
    page = opened(address, view, color_scheme=scheme, viewport=PHONE if scheme == "dark" else LAPTOP)
    page.wait_for_load_state("networkidle")
    page.evaluate(axe)
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] })")
    told = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found["violations"]]
    assert told == []
