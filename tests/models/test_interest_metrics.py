"""The interests of every model can be measured, or the model says why not."""

from __future__ import annotations

import math

import pytest

from tesserec.evaluation.codebooks import code_counts
from tesserec.evaluation.interests import evaluate_interests
from tesserec.models import MODELS
from tests.models.worlds import dataset, fitted


@pytest.mark.parametrize("name", MODELS)
def test_interests_are_measured_or_it_is_said_why_not(name):
    model = fitted(name)
    found = evaluate_interests(model.searcher, dataset(), users=100, bootstrap=10, codes=model.item_codes())
    kind = found.protocol["kind"]
    assert (kind == "cells") == model.searcher.has_interests
    assert all(math.isfinite(figure.value) for figure in found.figures.values())
    if kind == "none":
        assert not found.figures
        assert found.omitted["interests"]
    else:
        assert -1 <= found.figures["collapse/cosine"].value <= 1
        assert sum(row["places"] for row in found.curves["ranks"]) == pytest.approx(1)
    if kind == "cells":
        known, prior = (found.figures[f"calibration/{name}"].value for name in ("nll", "nll_popularity"))
        if not found.figures["calibration/ruled_out"].value:
            assert known < prior, "the posterior must know more than popularity"
        assert found.figures["concentration/cells@10"].value >= found.figures["concentration/fewest_cells@10"].value


@pytest.mark.parametrize("name", MODELS)
def test_item_codes_name_codes_of_the_codebook(name):
    found = fitted(name).item_codes()
    if found is not None:
        codes, size = found
        assert codes.shape[0] == len(dataset().items)
        assert code_counts(codes, size).sum() == codes.size
