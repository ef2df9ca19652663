"""A generative model of interests: the probability of a tuple of codes, level by level.

A dictionary of C levels with M codes each names ``M ** C`` tuples. The posterior of a user state factorises over
levels, ``p(m_1 .. m_C | u) = prod_c p(m_c | m_1 .. m_{c-1}, u)``, and every level is one small softmax. A tuple's
*number* writes its codes in base M, level 0 first; tables over all tuples are in order of number, so the tuples below a
prefix lie side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.errors import ConfigError

MOST_TUPLES = 1 << 20
"""More tuples than this cannot be listed with a probability each."""


def number_of(tuples: Tensor, codes: int) -> Tensor:
    """Number of tuples ``(..., levels)``, out of ``codes ** levels``."""
    number = torch.zeros_like(tuples[..., 0])
    for level in range(tuples.shape[-1]):
        number = number * codes + tuples[..., level]
    return number


def tuple_of(number: Tensor, codes: int, levels: int) -> Tensor:
    """Codes ``(..., levels)`` of the tuples with these numbers."""
    places = [number // codes ** (levels - 1 - level) % codes for level in range(levels)]
    return torch.stack(places, -1)


class AutoregressivePosterior(nn.Module):
    """``p(tuple | state)``, one softmax a level: ``base(level) + head_c(state, earlier codes)``.

    A head adds the embeddings of the earlier codes to a linear map of the state and passes the sum through GELU and a
    linear layer that starts at zero, so that a fresh posterior is its base.

    Every method takes states ``(rows, dim)`` and a base ``(rows or 1, codes ** levels)``: logits over all tuples in
    order of number, constants to the gradient, which say what is known without the heads. ``NEVER`` rules a tuple
    out. All but :meth:`sample` can be traced to ONNX.

    Parameters
    ----------
    dim
        Width of states.
    levels, codes
        Shape of the dictionary (C, M).

    Raises
    ------
    ConfigError
        If there are too many tuples to list.

    Notes
    -----
    GemiRec generates the next interests (Wu et al. 2025); how its heads look is unknown to us, so they are ours. So are
    the base and the zero start: a head that has to learn from scratch what the user vector and the sizes of the cells
    say already overfits before it has learned it.
    """

    def __init__(self, dim: int, levels: int, codes: int) -> None:
        super().__init__()
        if codes**levels > MOST_TUPLES:
            raise ConfigError(
                f"{levels} levels of {codes} codes make {codes**levels:,} interests, more than the {MOST_TUPLES:,} "
                "that can be listed; use fewer levels (depth) or codes"
            )
        self.levels, self.codes = levels, codes
        self.norm = nn.LayerNorm(dim)
        self.states = nn.ModuleList(nn.Linear(dim, dim) for _ in range(levels))
        self.earlier = nn.Parameter(torch.randn(levels, levels, codes, dim) * 0.02)
        self.heads = nn.ModuleList(nn.Linear(dim, codes) for _ in range(levels))
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    @property
    def tuples(self) -> int:
        """Tuples of the dictionary."""
        return int(self.codes**self.levels)

    def next_level(self, states: Tensor, prefixes: Tensor, base: Tensor) -> Tensor:
        """Log-probabilities of the codes that may follow prefixes ``(rows, n, level)``, ``(rows, n, codes)``."""
        level = prefixes.shape[-1]
        hidden = self.states[level](self.norm(states))[:, None]
        for place in range(level):
            hidden = hidden + F.embedding(prefixes[..., place], self.earlier[level, place])
        logits: Tensor = self.heads[level](F.gelu(hidden)).float()
        below = base.view(base.shape[0], self.codes**level, self.codes, -1).logsumexp(-1)
        if level:
            number = number_of(prefixes, self.codes)[..., None].expand(-1, -1, self.codes)
            below = below.expand(states.shape[0], -1, -1).gather(1, number)
        return torch.log_softmax(logits + below, -1)

    def log_prob(self, states: Tensor, tuples: Tensor, base: Tensor) -> Tensor:
        """Log-probability of one tuple a row, ``(rows, levels)`` to ``(rows,)``."""
        total = torch.zeros(len(states), device=states.device)
        for level in range(self.levels):
            prefix, code = tuples[:, None, :level], tuples[:, level, None]
            total = total + self.next_level(states, prefix, base)[:, 0].gather(1, code)[:, 0]
        return total

    def joint(self, states: Tensor, base: Tensor) -> Tensor:
        """Log-probability of every tuple in order of number, ``(rows, codes ** levels)``."""
        total = torch.zeros(states.shape[0], 1, device=states.device)
        for level in range(self.levels):
            number = torch.arange(self.codes**level, device=states.device)
            prefixes = tuple_of(number, self.codes, level) if level else number.new_zeros(1, 0)
            following = self.next_level(states, prefixes[None].expand(states.shape[0], -1, -1), base)
            total = (total[..., None] + following).flatten(1)
        return total

    def beam(self, states: Tensor, width: int, per_parent: int, base: Tensor) -> tuple[Tensor, Tensor]:
        """Likely tuples, at most ``per_parent`` with the same first code.

        Each of the ``width`` likeliest first codes has a beam of its own, ``per_parent`` wide; the best of their union
        are returned. With both at their largest, these are the likeliest tuples of all.

        Returns
        -------
        tuple[Tensor, Tensor]
            Tuples ``(rows, n, levels)`` by falling log-probability, and these, ``(rows, n)``; n is ``width`` or what
            there can be.
        """
        rows, parents = states.shape[0], min(width, self.codes)
        first = torch.zeros(rows, 1, 0, dtype=torch.int64, device=states.device)
        scores, codes = self.next_level(states, first, base)[:, 0].topk(parents)
        tuples, scores = codes[..., None, None], scores[..., None]
        for _ in range(1, self.levels):
            held = tuples.shape[2]
            following = self.next_level(states, tuples.flatten(1, 2), base).view(rows, parents, held, self.codes)
            candidates = (scores[..., None] + following).flatten(2)
            scores, place = candidates.topk(min(per_parent, candidates.shape[-1]))
            parent = (place // self.codes)[..., None].expand(-1, -1, -1, tuples.shape[-1])
            tuples = torch.cat([tuples.gather(2, parent), (place % self.codes)[..., None]], -1)
        scores, tuples = scores.flatten(1), tuples.flatten(1, 2)
        scores, place = scores.topk(min(width, scores.shape[1]))
        return tuples.gather(1, place[..., None].expand(-1, -1, self.levels)), scores

    @torch.no_grad()
    def sample(
        self,
        states: Tensor,
        n: int,
        base: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Draw ``n`` tuples a row with replacement, ``(rows, n, levels)``.

        Parameters
        ----------
        temperature
            Divides the log-probabilities of every level; 1 draws from the posterior.
        generator
            Source of randomness; PyTorch's own by default.
        prefix
            First codes that every draw of a row starts with, ``(rows, k)``; none by default.
        """
        given = prefix if prefix is not None else torch.zeros(len(states), 0, dtype=torch.int64, device=states.device)
        tuples = given[:, None].expand(-1, n, -1)
        for _ in range(given.shape[1], self.levels):
            chances = (self.next_level(states, tuples, base) / temperature).softmax(-1)
            chances = chances.expand(-1, n, -1).flatten(0, 1)
            drawn = torch.multinomial(chances, 1, generator=generator).view(-1, n, 1)
            tuples = torch.cat([tuples, drawn], -1)
        return tuples
