"""Imitating actions that are better than the policy's own."""

from dataclasses import asdict, dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.registry import register


@register("objective", "improved_likelihood")
@dataclass(frozen=True)
class ImprovedLikelihood:
    r"""Negative log-likelihood of the policy's own samples after they were ranked and improved by the critic.

    .. math:: \ell_t = -\log\pi_\theta(a^*_t|s_t), \qquad a^*_t \sim \mathrm{softmax}_{i \leq k}\, Q(s_t, a_i^T)

    The supervised loss of the policy's own class takes the place of a policy gradient, so any policy that can be
    sampled and fitted will do. Of `candidates` samples (32) the `keep` best (10) by the mean of the critics take
    `steps` (10) gradient steps of `step_size` (3e-4, in units of the action half-range) up the critic's slope. The next
    action of the critics' targets is the best of those that the same improvement makes at the next state.

    ascent: the critic that is climbed, the "mean" or the "min" of the heads.
    choice: what is imitated: a "sample" of the softmax, its "expectation", or the best action ("argmax").
    include_recorded: the recorded action takes the place of the worst kept one.
    act: roll-outs and evaluations play the best improved action too, as in the paper, in place of the policy itself.

    The domain's model `improved_actions` does the work. Where actions are texts there is no slope: there the selection
    `best_of_group` with the objective `log_likelihood` is what remains (no steps).

    Reads `model.improved_logp` [N, T], gives [N, T]. Source: policy-agnostic RL (Mark et al. 2024) [221].
    """

    candidates: int = 32
    keep: int = 10
    steps: int = 10
    step_size: float = 3e-4
    ascent: str = "mean"
    choice: str = "sample"
    include_recorded: bool = False
    act: bool = False
    level = "decision"
    reads = ("model.improved_logp",)

    def requirements(self) -> Requirements:
        """The model that improves actions."""
        return Requirements(models={"improved_actions": asdict(self)})

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        loss: Tensor = -batch.model["improved_logp"]
        return loss
