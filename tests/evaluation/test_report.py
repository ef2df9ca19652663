"""The report is one well-formed page that loads nothing, escapes names and shows the numbers it was given."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tesserec.errors import MissingExtra, UserError
from tesserec.evaluation.protocol import evaluate
from tesserec.evaluation.report import write_report
from tesserec.evaluation.result import Evaluation
from tesserec.evaluation.significance import compare
from tests.evaluation.worlds import answering, dataset, random_lists, random_world

pytest.importorskip("matplotlib", reason="plots need the report extra")
pytest.importorskip("jinja2", reason="the page needs the report extra")

WORLD = random_world()
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def measured(seed: int) -> Evaluation:
    lists = random_lists(300, 60, 20, seed)
    return evaluate(answering(lists), WORLD, ks=(5, 10, 20), bootstrap=20, cells=np.arange(60) % 7)


@pytest.fixture(scope="module")
def runs() -> dict[str, Evaluation]:
    return {"a<b>&$x$": measured(1), "_second": measured(2)}


def log(epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": e, "loss/softmax": 2.0 / e, "loss/rq": 0.5, "valid/recall@20": 0.01 * e,
         "codebook/perplexity/0": 50.0 + e, "codebook/dead/0": 3}
        for e in range(1, epochs + 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def text(runs: dict[str, Evaluation], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, runs, comparison=compare(runs), training_log={"_second": log(4)}, facts={"model": {"width": 64}})
    return path.read_text()


def test_page_is_well_formed_and_loads_nothing(text: str) -> None:
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\((?!#)|@import|\bon\w+=", text)
    references = [
        value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "xlink:href")
    ]
    assert references
    assert all(value and value.startswith("#") for value in references)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in references if value} <= set(ids)


def test_recall_of_novel_targets_has_no_winner_where_these_differ(runs: dict[str, Evaluation], tmp_path: Path) -> None:
    other = replace(runs["_second"], protocol=runs["_second"].protocol | {"cells_sha256": "another"})
    same, differ = (written(tmp_path, {**runs, "_second": second}) for second in (runs["_second"], other))
    assert same.count('"best"') == differ.count('"best"') + 1
    assert "novel interests" in same
    assert "novel interests" not in differ


def written(folder: Path, runs: dict[str, Evaluation]) -> str:
    path = folder / "page.html"
    write_report(path, runs)
    return path.read_text()


def test_drawings_are_valid_and_take_their_colours_from_the_page(text: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 8
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).get("aria-label")
        assert not re.search(r"(fill|stroke): #", drawing)
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(re.findall(r"--([\w-]+): #", text))
    assert text.count("<figcaption>") == len(drawings)


def test_names_are_escaped_and_shown(text: str) -> None:
    assert "a<b>" not in text
    assert "a&lt;b&gt;&amp;$x$" in text
    assert "_second" in text


def test_numbers_of_every_run_are_there(text: str, runs: dict[str, Evaluation]) -> None:
    for run in runs.values():
        for name in ("recall@20", "ndcg@5", "coverage@10", "recall@10/novel"):
            assert f"{run.metrics[name].value:.4f}" in text
    assert "Against a&lt;b&gt;" in text
    assert "f00d" in text
    assert "model · width" in text


def test_one_run_with_little_to_show(tmp_path: Path) -> None:
    world = dataset([[0] * 9], [[0] * 9], [[1]], 4)
    run = evaluate(answering(np.array([[2, 3]])), world, ks=(2,), bootstrap=5)
    write_report(tmp_path / "one.html", run)
    page = (tmp_path / "one.html").read_text()
    Page(page)
    assert "Every metric of run" in page
    assert "Training" not in re.sub(r"<footer>.*", "", page)


def test_same_input_gives_the_same_bytes(runs: dict[str, Evaluation], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, runs, training_log=log(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_refuses_runs_that_do_not_belong_together(runs: dict[str, Evaluation], tmp_path: Path) -> None:
    first = next(iter(runs.values()))
    with pytest.raises(UserError, match="'b' was measured on"):
        write_report(tmp_path / "x.html", {"a": first, "b": replace(first, fingerprint="beef")})
    with pytest.raises(UserError, match="at least one"):
        write_report(tmp_path / "x.html", {})
    other = replace(first, protocol=first.protocol | {"ks": [7]})
    with pytest.raises(UserError, match="share no k"):
        write_report(tmp_path / "x.html", {"a": first, "b": other})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_names_the_extra_that_is_missing(
    package: str, runs: dict[str, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.endswith(".figures")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tesserec.evaluation.figures", raising=False)
    original: Callable[..., Any] = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"tesserec\[report\]"):
        write_report(tmp_path / "x.html", runs)


def test_the_room_needs_neither_torch_nor_the_report_extra() -> None:
    script = (
        "import sys, tesserec.evaluation.protocol, tesserec.evaluation.significance, tesserec.evaluation.report;"
        "print(sorted({'torch', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
