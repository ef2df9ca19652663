"""The report's section on interests: tables, plots and reasons, for one run and for several side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tesserec.evaluation.interest_report import MEANINGS
from tesserec.evaluation.interest_result import InterestEvaluation
from tesserec.evaluation.protocol import evaluate
from tesserec.evaluation.report import write_report
from tesserec.evaluation.result import Evaluation
from tesserec.index.contract import Policy
from tests.evaluation.models import DATA, cells_model, measure, slots_model
from tests.evaluation.test_report import Page
from tests.evaluation.worlds import answering, random_lists

pytest.importorskip("matplotlib", reason="plots need the report extra")
pytest.importorskip("jinja2", reason="the page needs the report extra")

TITLES = {
    "cells": ["Map of the interests", "Use of the codes", "Reliability of the likeliest interest",
              "Reliability of every probability", "Accuracy and breadth by policy"],
    "any": ["Accuracy and coverage by policy", "Accuracy and variety by policy"],
}  # fmt: skip


def evaluation(seed: int = 0) -> Evaluation:
    return evaluate(answering(random_lists(80, 60, 8, seed)), DATA, ks=(8,), bootstrap=5)


def page(path: Path, interests: dict[str, InterestEvaluation], runs: dict[str, Evaluation] | None = None) -> str:
    write_report(path / "page.html", runs or evaluation(), interests=interests)
    return (path / "page.html").read_text()


def headings(text: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", text)


def test_cells_are_shown_in_full_and_nothing_is_loaded(tmp_path: Path) -> None:
    text = page(tmp_path, {"run": measure(cells_model())})
    checked = Page(text)
    assert set(headings(text)) >= {*TITLES["cells"], *TITLES["any"]}
    for what in (
        "Concentration: where",
        "Collapse: whether",
        "Calibration: whether",
        "Codebook: how",
        "90th percentile",
    ):
        assert what in text
    assert "What was left out" not in text
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    ids = [attrs["id"] for _, attrs in checked.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_figure_is_explained_in_a_sentence(tmp_path: Path) -> None:
    found = measure(cells_model())
    text = page(tmp_path, {"run": found})
    kinds = {name.split("/")[1].partition("@")[0] for name in found.figures}
    for kind in kinds:
        assert MEANINGS[kind].endswith(".")
        assert MEANINGS[kind] in text.replace("&#39;", "'")


def test_slots_show_what_applies_and_say_why_the_rest_does_not(tmp_path: Path) -> None:
    text = page(tmp_path, {"run": measure(slots_model())})
    Page(text)
    assert not set(headings(text)) & set(TITLES["cells"])
    assert set(headings(text)) >= set(TITLES["any"])
    assert "Collapse: whether" in text
    assert "Calibration: whether" not in text
    assert "slots of a user" in text
    assert "by the score of their best item" in text


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = {"a<b>": evaluation(1), "slots": evaluation(2), "popular": evaluation(3)}
    interests = {"a<b>": measure(cells_model()), "slots": measure(slots_model())}
    text = page(tmp_path, interests, runs)
    Page(text)
    assert "a<b>" not in text
    collapse = re.search(r"<caption>Collapse.*?</table>", text, re.DOTALL)
    assert collapse is not None
    for name, one in interests.items():
        assert f'<th scope="col">{name.replace("<", "&lt;").replace(">", "&gt;")}</th>' in collapse[0]
        assert f"{one.figures['collapse/cosine'].value:.4f}" in collapse[0]
    calibration = re.search(r"<caption>Calibration.*?</table>", text, re.DOTALL)
    assert calibration is not None
    assert calibration[0].count("not measured") == sum(one.startswith("cal") for one in interests["a<b>"].figures)
    assert "slots: calibration" in text
    frontier = re.search(r"<h3>Accuracy and coverage by policy.*?</ul>", text, re.DOTALL)
    assert frontier is not None
    assert "popular" in frontier[0]


def test_a_run_without_interests_has_no_section(tmp_path: Path) -> None:
    nothing = InterestEvaluation("f00d", {}, {}, {}, {"interests": "no"})
    assert "<h2>Interests</h2>" not in page(tmp_path, {"run": nothing})
    assert "<h2>Interests</h2>" in page(tmp_path, {"run": measure(cells_model())})


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    found = {"run": measure(cells_model(Policy(interests=2, merge="quota")))}
    assert page(tmp_path, found) == page(tmp_path, found)
