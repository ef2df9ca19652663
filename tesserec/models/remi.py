"""REMI: ComiRec-SA with negatives that are hard for the interest, and attention that is kept from narrowing."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tesserec.models.comirec import ComiRecSAConfig, ComiRecSANetwork
from tesserec.models.multi_interest import MultiInterestRetriever, nearest_interest
from tesserec.models.network import TensorBatch
from tesserec.nn.routing import attention_spread


class RemiConfig(ComiRecSAConfig):
    """Settings of :class:`Remi`; see also :class:`~tesserec.models.comirec.ComiRecSAConfig`.

    Attributes
    ----------
    hardness
        How far negatives near to the interest outweigh the others (beta); 0 is ComiRec-SA's softmax.
    spread_weight
        Of the penalty on uneven attention (lambda); 0 is none.
    """

    hardness: float = Field(0.1, ge=0)
    spread_weight: float = Field(100.0, ge=0)


class RemiNetwork(ComiRecSANetwork):
    """ComiRec-SA's network with REMI's two changes to its loss."""

    def softmax(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: TensorBatch) -> Tensor:
        """Softmax of the nearest interest against its hard negatives; see :class:`MultiInterestNetwork`."""
        nearest, config = nearest_interest(users, positives), self.config
        return batch.softmax(nearest, positives, negatives, config.temperature, config.hardness)

    def regularise(self, states: Tensor, prefixes: Tensor, batch: TensorBatch) -> dict[str, Tensor]:
        """``spread``, how unevenly the prefixes are attended to; see :class:`MultiInterestNetwork`."""
        if not self.config.spread_weight:
            return {}
        uneven = attention_spread(self.attention(states, prefixes), prefixes)[batch.valid]
        return {"spread": self.config.spread_weight * uneven.mean()}


class Remi(MultiInterestRetriever):
    """REMI-style retrieval (Xie et al., RecSys 2023, arXiv 2302.14532), after the authors' code.

    From the paper: interest-aware hard negatives, each weighted by ``exp(beta * logit)`` over the mean of such weights,
    and routing regularisation, the squared norm of the diagonal of the covariance of the attention
    rows, with weight 100, on ComiRec-SA.

    Notes
    -----
    Ours: the pool of negatives is drawn by a mixture of popularity and uniform, so the mean of the weights is taken
    over the catalogue as the pool estimates it; with uniform negatives it is the paper's. Logits are divided by the
    temperature, which makes a given beta act more strongly. The covariance is divided by the events of the prefix,
    where the code divides by the width of the vectors, and averaged over prefixes, where it is summed.
    """

    name = "remi"
    network: RemiNetwork
    Config = RemiConfig
    network_class = RemiNetwork
