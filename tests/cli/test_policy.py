"""What `tesserec recommend` may say about the policy, on a small published network."""

import json

import pytest

from tesserec.index.bundle import Bundle
from tests.cli.conftest import run_cli
from tests.index.test_bundle import publish_network

HISTORY = ["i1", "i2", "i40"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    root = tmp_path_factory.mktemp("network") / "bundles"
    publish_network(root)
    return root


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"interests": 1},
        {"interests": 6, "merge": "probability"},
        {"merge": "quota", "shares": "equal"},
        {"select": "history", "merge": "max"},
        {"explore": 0.4, "visit": 0.5},
        {"temperature": 2.0, "top-p": 0.9, "seed": 7, "repeats": 20},
        {"known": 0.2, "merge": "probability"},
    ],
)
def test_options_do_what_the_same_words_do_in_python(network, policy):
    options = [part for name, value in policy.items() for part in (f"--{name}", value)]
    answer = json.loads(run_cli("recommend", network, "--history", ",".join(HISTORY), "-k", "9", *options, "--json"))
    expected = Bundle.open(network).recommend(
        [HISTORY], 9, **{name.replace("-", "_"): value for name, value in policy.items()}
    )
    assert [one["item"] for one in answer["candidates"]] == expected["item"].to_list()
    assert [one["propensity"] for one in answer["candidates"]] == expected["propensity"].to_list()
    assert [one["interest"] for one in answer["candidates"]] == expected["interest"].to_list()
    assert {one["interest"] for one in answer["interests"]} == set(expected["interest"])


def test_options_change_the_answer(network):
    ask = ["recommend", network, "--history", ",".join(HISTORY), "-k", "9", "--json"]
    answers = [run_cli(*ask, *options) for options in ([], ["--interests", "1"], ["--select", "history"])]
    assert len(set(answers)) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--merge", "mean"], "merge = 'mean'; choose 'max', 'probability' or 'quota'"),
        (["--interests", "0"], "interests = 0"),
        (["--shares", "even"], "shares = 'even'; choose 'posterior' or 'equal'"),
        (["--temperature", "0"], "temperature = 0.0; expected a number above 0"),
        (["--new-share", "-1"], "new_share = -1.0; expected a share"),
        (["--top-p", "2"], "top_p = 2.0; expected a share above 0"),
        (["--select", "history", "--explore", "0.2"], "select = 'history' with explore = 0.2"),
    ],
)
def test_policies_that_cannot_be_are_refused(network, options, named):
    message = " ".join(run_cli("recommend", network, "--history", "i1", *options, code=2).split())
    assert named in message


def test_slots_have_no_names_to_show(tmp_path):
    publish_network(tmp_path / "bundles", codes=3, cells=1)
    ask = ["recommend", tmp_path / "bundles", "--history", ",".join(HISTORY)]
    answer = json.loads(run_cli(*ask, "--json"))
    assert {one["interest"] for one in answer["candidates"]} == {0, 1, 2}
    assert answer["interests"] == []
    assert "probability" not in run_cli(*ask)
    assert "no interests that users share" in run_cli("recommend", *ask[1:], "--explore", "0.2", code=2)
