"""Classifiers that tell a simulator from the recorded world, and what follows for their dynamics (H2O [175])."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.batch import RECORDED as REAL
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import MLP, hidden_sizes
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.data.dataset import TransitionDataset
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer

LOGIT_SCALE = 2.0  # logits are 2 tanh(.)
GAP_RANGE = (1e-20, 10.0)  # the code's floor, 1e-45, is no normal number of float32; relative weights are the same


@register("model", "dynamics_classifier")
class DynamicsClassifier(AuxiliaryModel):
    r"""Two classifiers of where data comes from, of pairs and of transitions, and the ratio of the dynamics.

    .. math:: p(\cdot|s, a) = \mathrm{softmax}(l_{sa}), \quad p(\cdot|s, a, s') = \mathrm{softmax}(l_{sas} + l_{sa}),
        \quad l = 2 \tanh(f)

    .. math:: \frac{P_{real}(s'|s, a)}{P_{sim}(s'|s, a)} =
        \frac{p(real|s, a, s')\, p(sim|s, a)}{p(sim|s, a, s')\, p(real|s, a)}, \qquad
        u = \mathrm{clip}\Big(\frac1M \sum_{j \leq M} \log \frac{P_{sim}}{P_{real}}(s' + \epsilon_j|s, a)\Big)

    epsilon has the standard deviation of the recorded states. noise: standard deviation of the noise on all inputs in
    training, .1. samples: M, 10. u is clipped to [1e-20, 10].

    Gives `estimate.dynamics_ratio` and `estimate.dynamics_gap` (u; 0 in recorded rows) [N, T], and for training
    `model.source_logits` [N, T, 2, 2]: of pairs and of transitions, real and simulated. Raises `UserError` where the
    task has no simulator beside its own world. Source: Niu et al. 2022.
    """

    fields: ClassVar = {"dynamics_ratio": "ratio", "dynamics_gap": "gap", "source_logits": "noisy_logits"}

    def __init__(self, *, noise: float = 0.1, samples: int = 10) -> None:
        super().__init__()
        if noise < 0 or samples < 1:
            raise UserError(
                f"model 'dynamics_classifier': noise is {noise}, samples {samples}; they must be at least 0 and 1"
            )
        self.noise, self.samples = noise, samples

    def build(self, domain: "ControlDomain") -> None:
        """Make both networks, of the critics' hidden sizes."""
        if domain.task.get("simulator") is None:
            raise UserError(
                "H2O learns from recorded data and a simulator beside it: give 'task.simulator={perturb: {gravity: "
                "2}}', or task.simulator={} where the simulator is the task's own world"
            )
        states, actions = domain.observation_size, domain.actions.size
        hidden = hidden_sizes(domain.model, "critic_hidden" if domain.model.get("critic_hidden") else "hidden")
        activation = domain.model.get("activation", "relu")
        self.of_pair = MLP([states + actions, *hidden, 2], activation, half=domain.half_precision)
        self.of_transition = MLP([2 * states + actions, *hidden, 2], activation, half=domain.half_precision)
        self.register_buffer("state_std", torch.ones(states))

    def fit(self, data: "TransitionDataset") -> None:
        """Take the spread of the recorded states."""
        self.state_std: Tensor = data.states_and_actions()[0].std(0).to(self.state_std)

    def logits(self, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """l_sa and l_sas + l_sa, [..., 2, 2]: of the pair and of the transition, real and simulated."""
        pair = torch.cat([observation, action], -1)
        of_pair = LOGIT_SCALE * torch.tanh(self.of_pair(pair))
        of_transition = LOGIT_SCALE * torch.tanh(self.of_transition(torch.cat([pair, following], -1)))
        return torch.stack([of_pair, of_transition + of_pair], -2)

    def log_ratio(self, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """The logarithm of P_real / P_sim of the next state, [...]."""
        odds = self.logits(observation, action, following)
        pair, transition = (odds[..., 0] - odds[..., 1]).unbind(-1)
        return transition - pair

    def ratio(self, scorer: "Scorer") -> Tensor:
        """P_real / P_sim of the next state, [N, T]."""
        return self.log_ratio(scorer.observation, scorer.action, scorer.next_observation).exp()

    def gap(self, scorer: "Scorer") -> Tensor:
        """The gap u of simulated decisions, 0 for recorded ones, [N, T]."""
        simulated = scorer.batch.source != REAL
        here, action, following = (
            field[simulated].expand(self.samples, -1, -1, -1)
            for field in (scorer.observation, scorer.action, scorer.next_observation)
        )
        noise = torch.randn(following.shape, generator=scorer.domain.generator, device=following.device)
        found = -self.log_ratio(here, action, following + noise * self.state_std).mean(0)
        gap = torch.zeros_like(scorer.batch.reward)
        gap[simulated] = found.clamp(*GAP_RANGE)
        return gap

    def noisy_logits(self, scorer: "Scorer") -> Tensor:
        """Logits of inputs with noise, [N, T, 2, 2]."""
        inputs = (scorer.observation, scorer.action, scorer.next_observation)
        return self.logits(*(self._disturbed(x, scorer.domain.generator) for x in inputs))

    def _disturbed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)
