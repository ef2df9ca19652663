"""The explorer over HTTP: what is served, what is refused, and that nothing but text and data leaves it."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

import tesserec
from tesserec.serving.explorer.users import user_page
from tesserec.serving.limits import Refusal
from tests.serving.films import DEAD, HOSTILE, film_searcher, in_memory, without_interests
from tests.serving.live import serving

pytest.importorskip("starlette", reason="the explorer is served with the serve extra")
pytest.importorskip("uvicorn", reason="the explorer is served with the serve extra")
STATIC = Path(tesserec.__file__).parent / "serving" / "explorer" / "static"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return in_memory(film_searcher(), tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def address(bundle):
    stored = {"anna": [100, 105, 110]}
    with serving(lambda: bundle, history_of=stored.get, traffic=lambda: {2: 7}) as address:
        yield address


def ask(address, path="", body=None, code=200):
    """Headers and content of an answer; a body makes it a POST."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, headers, content = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, content = error.code, error.headers, error.read()
    assert status == code, content[:300]
    is_json = headers.get_content_type() == "application/json"
    return headers, json.loads(content) if is_json else content


@pytest.mark.parametrize("path", ["", "app.js", "explorer.css", "icon.svg", "api/model", "api/map", "missing"])
def test_every_answer_forbids_what_comes_from_elsewhere(address, path):
    headers, _ = ask(address, path, code=404 if path == "missing" else 200)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_lies_in_its_folder(address):
    _, page = ask(address.rstrip("/"))
    assert b"<title>tesserec explorer</title>" in page
    assert b"style=" not in page
    assert b"<script>" not in page


@pytest.mark.parametrize("path", ["../web.py", "%2e%2e/web.py", "..%2fweb.py", "static/../../web.py"])
def test_nothing_outside_the_folder_is_served(address, path):
    ask(address, path, code=404)


def test_the_data_is_what_the_functions_say(address, bundle):
    _, model = ask(address, "api/model")
    assert model["interests"] == 9
    assert model["users"] is True
    assert model["settings"] == {"k": 20, "explore": 0.0, "interests": 3}
    _, shown = ask(address, "api/map")
    assert (shown["traffic_of"], shown["dead"]) == ("recommendations", [DEAD])
    _, page = ask(address, "api/interests/2")
    assert page["traffic"] == 7
    _, user = ask(address, "api/user", {"history": ["100", "105", "110"]})
    assert user == json.loads(user_page(bundle.searcher, [100, 105, 110]).model_dump_json())
    assert ask(address, "api/user", {"user": "anna"})[1] == user
    _, found = ask(address, "api/items?title=%3Cimg")
    assert found["items"] == [{"id": "100", "title": HOSTILE}]
    _, health = ask(address, "api/health")
    assert "is missing" in health["generations"][0]["problem"]


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (b"{", 422, "Invalid JSON"),
        ({"history": ["100"], "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"history": ["100"], "explore": 1.5}, 422, "explore"),
        ({"history": ["100"], "surprise": 1}, 422, "surprise: Extra inputs"),
        ({"history": ["1"] * 2001}, 422, "history"),
        ({"history": []}, 422, "history 0 is empty"),
        ({"history": ["7"]}, 422, "none of its 1 items is in the catalogue"),
        ({"history": ["seven"]}, 422, "id 'seven' cannot be Int64"),
        ({"history": [str(2**70)]}, 422, "none of its 1 items is in the catalogue"),
        ({}, 422, "either a history or a user"),
        ({"history": ["100"], "user": "anna"}, 422, "either a history or a user"),
        ({"user": "nobody"}, 422, "user 'nobody' has no events here"),
        (b" " * (1 << 19), 413, "longer than 262144 bytes"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(address, body, code, told):
    _, answer = ask(address, "api/user", body, code)
    assert told in answer["error"]


def test_an_unknown_interest_is_refused(address):
    _, answer = ask(address, "api/interests/77", code=422)
    assert "this model has 0 to 8" in answer["error"]


def test_histories_are_not_looked_up_unless_the_service_allows_it(tmp_path):
    popularity = in_memory(without_interests("popularity"), tmp_path)
    with serving(lambda: popularity) as address:
        _, model = ask(address, "api/model")
        assert model["users"] is False
        assert model["why_no_interests"] == "This model has no interests: everybody gets the same list."
        _, answer = ask(address, "api/user", {"user": "anna"}, 422)
        assert "keeps no histories by user" in answer["error"]
        ask(address, "api/map", code=422)


def test_before_there_is_a_generation_the_page_says_so():
    def none_yet():
        raise Refusal(503, "no generation is in service yet", {"Retry-After": "1"})

    with serving(none_yet) as address:
        assert b"tesserec explorer" in ask(address)[1]
        headers, answer = ask(address, "api/model", code=503)
        assert (headers["Retry-After"], answer["error"]) == ("1", "no generation is in service yet")


def test_a_request_sees_the_generation_that_is_served_now(tmp_path):
    served = [in_memory(without_interests("popularity"), tmp_path), in_memory(film_searcher(), tmp_path)]
    with serving(lambda: served[0]) as address:
        ask(address, "api/map", code=422)
        served.pop(0)
        assert ask(address, "api/map")[1]["cells"]


def test_the_page_asks_for_nothing_from_elsewhere():
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in "\n".join(line.split("// ")[0] for line in text.splitlines()), file
        assert "innerHTML" not in text, file


def test_the_page_is_in_the_wheel(tmp_path):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "explorer/static/" in name}
    assert inside == {file.name for file in STATIC.iterdir()}


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(scheme):
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for what is not text."""
    block = re.findall(r":root \{(.*?)\}", (STATIC / "explorer.css").read_text(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))
    text = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card")]
    text += [("page", "accent"), ("explored", "explored-wash"), ("soft", "explored-wash"), ("ink", "explored-wash")]
    text += [(f"on-{step}", f"step-{step}") for step in range(5)]
    drawn = [("event", "card"), ("event", "page"), ("accent", "wash"), ("explored", "wash")]
    for pairs, least in ((text, 4.5), (drawn, 3)):
        for one, other in pairs:
            light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (one, other)
