"""A classifier that tells an expert's states (and actions) from others'."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import ValueMLP, hidden_sizes
from unirl.errors import unknown
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer

INPUTS = ("states", "pairs")


@register("model", "expert_discriminator")
class ExpertDiscriminator(AuxiliaryModel):
    r"""The log-odds c(s) or c(s, a) that a row is an expert's.

    Trained by the logistic loss with equal weight for both sides, c is log d_expert / d_others. `of`: "states" (what
    the expert did is not looked at, SMODICE) or "pairs" of states and actions.

    Gives `estimate.expert_logit`, `model.expert_logit` [N, T], and for training `model.expert_slope` [N, T]: the square
    of the distance of the gradient's norm from 1, in c's input, at random points between a row and another one of the
    batch (Gulrajani et al. 2017). Raises `UserError` for unknown inputs.
    """

    fields: ClassVar = {"expert_logit": "logit", "expert_slope": "slope"}

    def __init__(self, *, of: str = "states") -> None:
        super().__init__()
        if of not in INPUTS:
            raise unknown("inputs (of) of model 'expert_discriminator'", str(of), INPUTS)
        self.of = of

    def build(self, domain: "ControlDomain") -> None:
        """Make the network, of the critics' hidden sizes."""
        hidden = hidden_sizes(domain.model, "critic_hidden" if domain.model.get("critic_hidden") else "hidden")
        size = domain.observation_size + (domain.actions.size if self.of == "pairs" else 0)
        self.network = ValueMLP([size, *hidden, 1], domain.model.get("activation", "relu"))

    def logit(self, scorer: "Scorer") -> Tensor:
        """The log-odds, [N, T]."""
        logit: Tensor = self.network(self._input(scorer))
        return logit

    def slope(self, scorer: "Scorer") -> Tensor:
        """(norm of the gradient - 1)^2 between rows, [N, T]."""
        rows = self._input(scorer)
        share = torch.rand(rows.shape[:2], generator=scorer.domain.generator, device=rows.device).unsqueeze(-1)
        between = (share * rows + (1 - share) * rows.flip(0)).detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.network(between).sum(), between, create_graph=True)
        squared: Tensor = (gradient.norm(dim=-1) - 1).square()
        return squared

    def _input(self, scorer: "Scorer") -> Tensor:
        if self.of == "states":
            return scorer.observation
        return scorer.critic_input(scorer.observation, scorer.action)
