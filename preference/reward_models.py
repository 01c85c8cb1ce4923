"""Models of a taste, learned from compared rows: a scalar reward (Bradley-Terry) and a pairwise preference model.

Both sit on an encoder `encode(batch) -> features [N, T, D]`, which only the domain can know: an MLP over observations
and actions (`inputs_mlp`, below), the last hidden states of a language model, or any callable. Encoders that are
modules are trained with the head. A model is used as an annotator (`by_model`) or as a reward part (`reward_model`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import make, register

Encoder = Callable[[Batch], Tensor]
POOLS = ("sum", "mean", "last")


def bradley_terry_loss(first: Tensor, second: Tensor, label: Tensor, margin: float = 0.0) -> Tensor:
    r"""``-l log sigmoid(r_1 - r_2 - m) - (1 - l) log sigmoid(r_2 - r_1 - m)`` per pair, [P].

    `label` l is the probability that the first is preferred. `margin` m >= 0 asks the preferred reward to lead by more
    (Touvron et al. 2023). Source: Bradley & Terry 1952; Christiano et al. 2017.
    """
    lead = first - second
    log_first = nn.functional.logsigmoid(lead - margin)
    log_second = nn.functional.logsigmoid(-lead - margin)
    return -label * log_first - (1 - label) * log_second


def preference_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of ``P(first preferred) = sigmoid(logit)`` with soft labels, per pair, [P]."""
    return nn.functional.binary_cross_entropy_with_logits(logit, label.to(logit.dtype), reduction="none")


def pooled(features: Tensor, mask: Tensor, pool: str) -> Tensor:
    """Features [N, T, D] of a row as one vector [N, D]: their `sum`, `mean`, or the `last` masked decision's.

    A row without a masked decision gives zeros.
    """
    weight = row_weights(mask, pool).to(features.dtype)
    return (features * weight.unsqueeze(-1)).sum(1)


def row_weights(mask: Tensor, pool: str) -> Tensor:
    """How much each decision counts in its row, [N, T]."""
    if pool == "sum":
        return mask.float()
    if pool == "mean":
        return mask / mask.sum(-1, keepdim=True).clamp(min=1)
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
    return (mask & (position == position.amax(-1, keepdim=True))).float()


class PairwiseModel(nn.Module, ABC):
    """What both models share: an encoder, `logit(batch, pairs)` and a loss."""

    def __init__(self, encoder: Any, width: int | None, pool: str, seed: int) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"pool is '{pool}'; known: {', '.join(POOLS)}")
        self.config: dict[str, Any] = {"width": width, "pool": pool, "seed": seed}
        if isinstance(encoder, Mapping):
            self.config["encoder"] = dict(encoder)
            encoder = make("encoder", encoder["name"], **{k: v for k, v in encoder.items() if k != "name"})
        self.encoder: Encoder = encoder
        found = width if width is not None else getattr(encoder, "width", None)
        if found is None:
            raise UserError("a preference model needs `width`, the last dimension of its encoder's features")
        self.width: int = found
        self.pool = pool

    @abstractmethod
    def logit(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Log-odds [P] that the first row of each pair is preferred."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the batch's `pairs` and `pair_label`; a scalar."""
        return preference_loss(self.logit(batch, batch.pairs), batch.pair_label).mean()


@register("preference_model", "bradley_terry")
class RewardModel(PairwiseModel):
    r"""Scalar reward per row, ``P(1 over 2) = sigmoid(r_1 - r_2)``: transitive by construction.

    `pool="sum"` (default) gives every decision a reward and adds them up, as segments of control are compared; `"last"`
    reads the last token, as reward models of language do. Source: Christiano et al. 2017; Ouyang et al. 2022.
    """

    def __init__(
        self, encoder: Any, width: int | None = None, pool: str = "sum", margin: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(encoder, width, pool, seed)
        self.config["margin"] = margin
        self.margin = margin
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(self.width, 1)

    def rewards(self, batch: Batch) -> Tensor:
        """Reward per decision [N, T]; they add up to `score`."""
        weight = row_weights(batch.mask, self.pool)
        per_decision: Tensor = self.head(self.encoder(batch)).squeeze(-1)
        return per_decision * weight.to(per_decision.dtype)

    def score(self, batch: Batch) -> Tensor:
        """Reward per row [N]."""
        return self.rewards(batch).sum(-1)

    def logit(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Difference of the two rewards, [P]."""
        first, second = self.score(batch)[pairs].unbind(-1)
        return first - second

    def loss(self, batch: Batch) -> Tensor:
        """Mean `bradley_terry_loss` over the batch's pairs; a scalar."""
        first, second = self.score(batch)[batch.pairs].unbind(-1)
        return bradley_terry_loss(first, second, batch.pair_label, self.margin).mean()


@register("preference_model", "pairwise")
class PreferenceModel(PairwiseModel):
    r"""Preference of pairs, ``P(y over y') = sigmoid(z^T (W - W^T) z')`` with ``z = [pooled features, 1]``.

    Antisymmetric by construction but not transitive, so it represents cyclic tastes, which no scalar reward can; the
    constant in z makes Bradley-Terry a special case. `W` starts near zero: all preferences near 1/2. Source: the
    two-input model of Munos et al. 2023, in the skew-symmetric form of Zhang et al. 2024 (general preference model).
    """

    def __init__(self, encoder: Any, width: int | None = None, pool: str = "mean", seed: int = 0) -> None:
        super().__init__(encoder, width, pool, seed)
        generator = torch.Generator().manual_seed(seed)
        size = self.width + 1
        self.form = nn.Parameter(torch.randn(size, size, generator=generator) / size)

    def logit(self, batch: Batch, pairs: Tensor) -> Tensor:
        """``z_1^T (W - W^T) z_2``, [P]."""
        features = pooled(self.encoder(batch), batch.mask, self.pool)
        embedded = torch.cat([features, torch.ones_like(features[:, :1])], -1)
        first, second = embedded[pairs[:, 0]], embedded[pairs[:, 1]]
        return ((first @ (self.form - self.form.T)) * second).sum(-1)


@register("encoder", "inputs_mlp")
class InputsMLP(nn.Module):
    """MLP over named fields of `inputs`, decision by decision: [N, T, sum of sizes] -> [N, T, hidden].

    `sizes` maps a field of `inputs` to its last dimension, e.g. {observation: 11, action: 3}. Two hidden layers of 64
    with tanh by default, enough for segments of the usual locomotion tasks. Raises `UserError` for an
    absent field.
    """

    def __init__(self, sizes: Mapping[str, int], hidden: int = 64, layers: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.width = hidden
        widths = [sum(self.sizes.values())] + [hidden] * layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())))

    def forward(self, batch: Batch) -> Tensor:
        """Features [N, T, hidden]."""
        present = list(batch.inputs.keys())
        for name in self.sizes:
            if name not in present:
                raise UserError(f"encoder 'inputs_mlp': no '{name}' among the inputs ({', '.join(present)})")
        features: Tensor = self.net(torch.cat([batch.inputs[name].float() for name in self.sizes], -1))
        return features
