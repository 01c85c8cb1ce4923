"""A world small enough to see through: one real action per row, reward -(action - 1)^2, and critics of two weights."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unirl import Batch
from unirl.domain import DomainInfo, Opponent, Requirements
from unirl.memory.pairs import PairDataset


class ToyPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))
        self.log_std = nn.Parameter(torch.zeros(1))

    def distribution(self) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.mean, self.log_std.exp())


class ToyDomain:
    def __init__(self, seed: int = 0) -> None:
        self.policy = ToyPolicy()
        self.info = DomainInfo("control", "toy", independent_decisions=True, target_entropy=0.5, sample_unit="steps")
        self.generator = torch.Generator().manual_seed(seed)

    def build(self, requirements: Requirements) -> None:
        self.anchors = {name: ToyPolicy() for name in requirements.anchors}
        for anchor in self.anchors.values():
            anchor.load_state_dict(self.policy.state_dict())
        self.value = nn.Parameter(torch.zeros(1))
        self.critic = nn.Parameter(torch.zeros(2, 3))  # per head: q(a) = w0 + w1 a + w2 a^2
        self.target = self.critic.detach().clone()

    def parameters(self, role: str) -> list[nn.Parameter]:
        return {"policy": list(self.policy.parameters()), "value": [self.value], "q": [self.critic]}.get(role, [])

    def rollout(
        self,
        n: int,
        *,
        group_size: int = 1,
        unit: str = "episode",
        opponent: Opponent | None = None,
        uniform: bool = False,
    ) -> Batch:
        with torch.no_grad():
            noise = torch.randn(n, 1, generator=self.generator)
            action = self.policy.mean + self.policy.log_std.exp() * noise
            if uniform:
                action = 4 * torch.rand(n, 1, generator=self.generator) - 2
            logp = self.policy.distribution().log_prob(action)
        return self._rows(action, group_size).replace(behavior_logp=logp)

    def _rows(self, action: Tensor, group_size: int) -> Batch:
        reward = -(action - 1).square()
        done = torch.ones_like(action, dtype=torch.bool)
        return Batch(
            mask=done,
            inputs={"action": action},
            reference_action=action[..., None],
            reward=reward,
            score=reward[:, 0],
            terminated=done,
            truncated=~done,
            group=torch.arange(len(action)) // group_size,
        )

    def score(self, batch: Batch, need: Collection[str]) -> Batch:
        return batch.replace(**self._scored(batch, need)) if need else batch

    def _scored(self, batch: Batch, need: Collection[str]) -> dict[str, Any]:
        action = batch.inputs["action"]
        made: dict[str, Any] = {}
        fresh = self.policy.mean + self.policy.log_std.exp() * torch.randn(action.shape, generator=self.generator)
        for name in sorted(need):
            head, _, anchor = name.partition(".")
            frozen = {
                "old_logp": lambda: self.policy.distribution().log_prob(action),
                "anchor_logp": lambda a=anchor: {a: self.anchors[a].distribution().log_prob(action)},
                "value": lambda: self.value.expand_as(action),
                "next_value": lambda: torch.zeros_like(action),
                "next_target_value": lambda: torch.zeros_like(action),
                "next_q": lambda: torch.zeros(2, *action.shape),
                "next_logp": lambda: torch.zeros_like(action),
                "target_q_data": lambda: _quadratic(self.target, action),
            }
            live = {
                "logp": lambda: self.policy.distribution().log_prob(action),
                "entropy": lambda: self.policy.distribution().entropy().expand_as(action),
                "value_pred": lambda: self.value.expand_as(action),
                "q_data": lambda: _quadratic(self.critic, action),
                "q": lambda: _quadratic(self.critic.detach(), fresh),
                "q_first": lambda: _quadratic(self.critic.detach(), fresh)[0],
                "sample_logp": lambda: self.policy.distribution().log_prob(fresh),
                "policy_action": lambda: self.policy.mean.expand(*action.shape, 1),
                "anchor_kl": lambda a=anchor: {
                    a: torch.distributions.kl_divergence(
                        self.policy.distribution(), self.anchors[a].distribution()
                    ).expand_as(action)
                },
                "sample_anchor_logp": lambda a=anchor: {a: self.anchors[a].distribution().log_prob(fresh)},
            }
            if head in frozen:
                with torch.no_grad():
                    value = frozen[head]()
                value = {k: v.detach() for k, v in value.items()} if isinstance(value, dict) else value.detach()
            else:
                value = live[head]()
            made[head] = {**made.get(head, {}), **value} if isinstance(value, dict) else value
        return made

    def dataset(self, options: Mapping[str, Any]) -> "ToyDataset":
        return ToyDataset(self._rows(2 * torch.rand(200, 1, generator=torch.Generator().manual_seed(7)), 1))

    def preferences(self) -> PairDataset:
        rows = self._rows(4 * torch.rand(200, 1, generator=torch.Generator().manual_seed(7)) - 2, 1)
        pairs = torch.arange(200).view(-1, 2)
        return PairDataset(rows, pairs, (rows.score[pairs[:, 0]] > rows.score[pairs[:, 1]]).float(), seed=0)

    def copy_policy(self, anchor: str, decay: float = 0.0) -> None:
        for mine, theirs in zip(self.policy.parameters(), self.anchors[anchor].parameters(), strict=True):
            theirs.data.lerp_(mine.data, 1 - decay)

    def update_targets(self) -> None:
        self.target.lerp_(self.critic.detach(), 0.05)

    def microbatches(self, batch: Batch) -> list[Batch]:
        return [batch]

    def evaluate(self, episodes: int) -> dict[str, float]:
        """Expected reward of the sampled policy: -((mean - 1)^2 + variance)."""
        with torch.no_grad():
            return {"score": -float((self.policy.mean - 1).square() + (2 * self.policy.log_std).exp())}

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "anchors": {name: anchor.state_dict() for name, anchor in self.anchors.items()},
            "value": self.value.detach(),
            "critic": self.critic.detach(),
            "target": self.target,
            "generator": self.generator.get_state(),
        }

    def start_from(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        for name, anchor in self.anchors.items():
            anchor.load_state_dict(state["anchors"][name])
        self.value.data.copy_(state["value"])
        self.critic.data.copy_(state["critic"])
        self.target.copy_(state["target"])
        self.generator.set_state(state["generator"])


class ToyDataset:
    def __init__(self, rows: Batch) -> None:
        self.rows = rows
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, n: int) -> Batch:
        return self.rows[torch.randint(len(self.rows), (n,), generator=self.generator)]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


def _quadratic(weights: Tensor, action: Tensor) -> Tensor:
    w = weights[:, :, None, None]
    return w[:, 0] + w[:, 1] * action + w[:, 2] * action.square()
