"""Ablations: each study asks one question of the codebook methods and answers it with a small table.

A study is a list of variants that differ in one thing. Each variant is a run like any other (trained by
:func:`tesserec.runs.train_run`, resumable, kept on disk) searched under a policy; all are measured by one protocol and
compared with the first, user by user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserec.errors import ConfigError, TrainingRefused, train_extra
from tesserec.files import write_json
from tesserec.runs import Run, train_run
from tesserec.training.recipe import load_recipe

if TYPE_CHECKING:
    from tesserec.evaluation.result import Evaluation

METRICS = ("recall@{k}", "ndcg@{k}", "coverage@{k}")
NOVEL = "recall@{k}/novel"


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes
    ----------
    label
        What differs, in a few words.
    model, sets
        What is trained; variants with equal ones share a run.
    policy
        Fields of :class:`~tesserec.index.contract.Policy` that differ from the model's own.
    """

    label: str
    model: str
    sets: tuple[str, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """Directory of its run inside the study's."""
        return "-".join([self.model, *self.sets]).replace("=", "-").replace("/", "-")


@dataclass(frozen=True)
class Study:
    """A question and the variants that answer it; the first is what the others are compared with.

    Attributes
    ----------
    novel
        Measure recall of targets in cells that the history has not touched, by the cells of the first variant, too.
    """

    question: str
    variants: tuple[Variant, ...]
    novel: bool = False


def _soft_search(label: str, **policy: Any) -> Variant:
    return Variant(label, "sparc", policy={"interests": 8, "merge": "quota", **policy})


STUDIES = {
    "coupling": Study(
        "Does it pay to train the codebook jointly with the retriever?",
        (
            Variant("joint", "sparc", ("coupling=joint",)),
            Variant("stop-gradient", "sparc", ("coupling=stop-gradient",)),
            Variant("frozen k-means", "sparc", ("coupling=frozen",)),
        ),
    ),
    "search": Study(
        "Does the posterior choose interests and share the list better than the history or an even split?",
        (
            _soft_search("soft: interests and shares by the posterior"),
            _soft_search("even: interests by the posterior, equal shares", shares="equal"),
            _soft_search("history: its most frequent cells, equal shares", select="history", shares="equal"),
            _soft_search("history: its most frequent cells, shares by frequency", select="history"),
        ),
    ),
    "depth": Study(
        "How deep should the code be?",
        (
            Variant("SPARC, 1 level", "sparc", ("codebook.levels=1",)),
            Variant("SPARC, 2 levels", "sparc", ("codebook.levels=2",)),
            Variant("SPARC, 3 levels", "sparc", ("codebook.levels=3",)),
            Variant("GemiRec, posterior over level 1", "gemirec", ("depth=1",)),
            Variant("GemiRec, posterior over tuples", "gemirec", ("depth=2",)),
        ),
    ),
    "horizon": Study(
        "How far ahead should the labels look?",
        tuple(Variant(f"next {n}", "sparc", (f"horizon={n}",)) for n in (1, 3, 5, 10)),
    ),
    "scorer": Study(
        "What does a pair of user and item lose when its score is a dot product, or is tabulated by code?",
        (
            Variant("dot product (two-tower)", "two-tower"),
            Variant("network over codes, tabulated (SparCode)", "sparcode"),
            Variant("network over user and item (all-to-all, no index)", "all-to-all"),
        ),
    ),
    "novelty": Study(
        "What does it cost to find more of what is new to a user?",
        (
            Variant("tessera as it is", "tessera"),
            *(Variant(f"known interests count {w}", "tessera", policy={"known": w}) for w in (0.7, 0.5, 0.25, 0.1)),
            *(
                Variant(f"a share of {share} explores", "tessera", policy={"explore": share})
                for share in (0.1, 0.2, 0.4)
            ),
            Variant("posterior at temperature 2", "tessera", policy={"temperature": 2.0}),
        ),
        novel=True,
    ),
    "interests": Study(
        "What do several interests add to one?",
        tuple(Variant(f"SPARC, K = {k}", "sparc", policy={"interests": k}) for k in (1, 2, 4, 8, 16)),
    ),
}


def ablate(
    dataset: Path,
    study: str,
    out: Path,
    *,
    sets: Sequence[str] = (),
    ks: Sequence[int] = (10, 50),
    seed: int = 0,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train, measure and compare the variants of a study.

    Runs that are finished under ``out`` are kept and unfinished ones go on, so the same command resumes.

    Parameters
    ----------
    dataset
        What ``prepare`` wrote.
    study
        A name in ``STUDIES``.
    out
        Directory for the runs and ``STUDY.json``.
    sets
        Settings of every variant, such as ``"training.epochs=10"``; a variant's own settings win.
    ks
        Cut-offs.
    seed
        Of everything random in training.
    progress
        Show progress bars.
    report
        Called with a line before each variant.

    Returns
    -------
    dict
        ``study``, ``question``, ``protocol``, ``fingerprint``, ``seed``, ``sets`` and ``rows``; a row has ``label``,
        ``model``, ``sets``, ``policy``, ``refused`` (why its training was, or None), ``metrics`` (value and 95 %
        interval) and ``against_first`` (paired difference and p by metric).

    Raises
    ------
    ConfigError
        If there is no such study, a setting is unknown to one of its models, or a cut-off exceeds the catalogue.
    TrainingRefused
        If the training of the first variant was, with which the others are compared.
    """
    from tesserec.data.dataset import Dataset
    from tesserec.evaluation.protocol import cut_offs, evaluate
    from tesserec.evaluation.significance import compare

    variants, novel = _checked(study, sets), STUDIES[study].novel
    ks = cut_offs(ks, len(Dataset.open(dataset).items))
    evaluations: dict[str, Evaluation] = {}
    refused: dict[str, str] = {}
    cells = None
    for variant in variants:
        if report:
            report(variant.label)
        try:
            run = _trained(dataset, variant, Path(out), sets, seed, progress)
        except TrainingRefused as error:
            if not evaluations:
                raise
            refused[variant.label] = str(error)
            continue
        searcher = run.model.searcher
        cells = searcher.cells if novel and cells is None else cells
        retrieve = partial(searcher.retrieve, policy=replace(searcher.policy, **variant.policy))
        evaluations[variant.label] = evaluate(retrieve, run.dataset(dataset), ks=ks, cells=cells)
    shown = [name.format(k=k) for k in ks for name in (*METRICS, *((NOVEL,) if novel else ()))]
    tested = [name.format(k=k) for k in ks for name in ("recall@{k}", *((NOVEL,) if novel else ()))]
    paired = compare(evaluations, tested).table.to_dicts() if len(evaluations) > 1 else []
    first = next(iter(evaluations.values()))
    result = {
        "study": study,
        "question": STUDIES[study].question,
        "fingerprint": first.fingerprint,
        "protocol": first.protocol,
        "seed": seed,
        "sets": list(sets),
        "rows": [
            {
                "label": variant.label,
                "model": variant.model,
                "sets": list(variant.sets),
                "policy": variant.policy,
                "refused": refused.get(variant.label),
                "metrics": _figures(evaluations.get(variant.label), shown),
                "against_first": {row["metric"]: row for row in paired if row["run"] == variant.label},
            }
            for variant in variants
        ],
    }
    write_json(Path(out) / f"{study}.json", result)
    return result


def _figures(evaluation: Evaluation | None, names: Sequence[str]) -> dict[str, Any]:
    return {} if evaluation is None else {name: asdict(evaluation.metrics[name]) for name in names}


def _checked(study: str, sets: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of a study, after every one of their settings has been accepted: no hours before a typing error."""
    from tesserec.models import model_class

    if study not in STUDIES:
        raise ConfigError(f"unknown study {study!r}; known studies: {', '.join(STUDIES)}")
    variants = STUDIES[study].variants
    with train_extra(f"the study {study!r}"):
        for variant in variants:
            load_recipe(model_class(variant.model).Config, None, (*sets, *variant.sets))
    return variants


def _trained(dataset: Path, variant: Variant, out: Path, sets: Sequence[str], seed: int, progress: bool) -> Run:
    place = out / f"{variant.run}-seed-{seed}"
    given = (*sets, *variant.sets)
    return train_run(dataset, variant.model, place, sets=given, seed=seed, resume=place.exists(), progress=progress)
