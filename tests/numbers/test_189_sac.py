"""Soft actor-critic [189]: the catalogue's numbers, with the parts a SAC configuration is made of."""

import math

import torch
from helpers import rows
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import make
from unirl.control.distributions import TanhGaussian

Q_VALUES = tensor([1.0, 2.0, 3.0], dtype=torch.float64)
ALPHA = 0.5
SOFT_VALUE = 3.0714658  # alpha logsumexp(Q / alpha)


def over_actions(logp: Tensor) -> dict[str, Tensor]:
    """One row per action of a discrete policy: its critic value and log-probability."""
    return {"q": Q_VALUES[:, None], "sample_logp": logp[:, None], "mask": torch.ones(3, 1, dtype=torch.bool)}


def actor_loss(logp: Tensor) -> Tensor:
    """alpha log pi - Q per action, by the parts, in expectation over the policy."""
    batch = rows(**over_actions(logp))
    penalty = make("regularizer", "entropy", estimator="sample")(batch)
    per_action = make("objective", "value_gradient")(batch) + ALPHA * penalty
    return (logp.exp() * per_action[:, 0]).sum()


def test_tanh_gaussian_log_density():
    mean, log_std = tensor([0.5]).double(), tensor([0.8], dtype=torch.float64).log()
    raw = tensor([0.9], dtype=torch.float64)
    action = raw.tanh()
    assert_close(action.item(), 0.7162978701990245, atol=1e-15, rtol=0)
    logp = TanhGaussian(mean, log_std).log_prob(action, raw).item()
    assert_close(logp, -0.10113412195820515, atol=1e-12, rtol=0)
    gaussian = -0.5 * ((0.9 - 0.5) / 0.8) ** 2 - math.log(0.8) - 0.5 * math.log(2 * math.pi)
    assert_close(logp, gaussian - math.log(1 - math.tanh(0.9) ** 2), atol=1e-12, rtol=0)


def test_discrete_actor_loss_is_minimal_at_the_softmax_with_the_soft_value():
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = actor_loss(logits.log_softmax(0))
        loss.backward()
        return loss

    optimizer.step(closure)
    policy = logits.softmax(0).detach()
    assert_close(policy, tensor([0.015876, 0.117310, 0.866813]).double(), atol=6e-7, rtol=0)
    assert_close(-actor_loss(policy.log()).item(), SOFT_VALUE, atol=6e-8, rtol=0)


def test_soft_value_target_of_the_optimal_policy_is_the_soft_value_for_every_action():
    logp = (Q_VALUES / ALPHA).log_softmax(0)
    batch = rows(**over_actions(logp), temperature=tensor(ALPHA))
    target = make("critic", "v", target="soft_q").target(batch)
    assert_close(target, torch.full_like(target, SOFT_VALUE), atol=6e-8, rtol=0)


def transition(terminated: bool):
    logp = (Q_VALUES / ALPHA).log_softmax(0)
    return rows(
        reward=[[1.0]],
        terminated=[[terminated]],
        next_q=Q_VALUES[None, None, :1].expand(2, 1, 1),
        next_logp=logp[None, :1],
        temperature=tensor(ALPHA),
        q_data=tensor([[[1.0]], [[2.0]]]).double(),
    )


def test_critic_target_bootstraps_the_soft_value_unless_terminated():
    # 1 + .99 * 3.0714658; a termination leaves the reward
    critic = make("critic", "soft_q", gamma=0.99)
    assert_close(critic.target(transition(False)).item(), 1 + 0.99 * SOFT_VALUE, atol=6e-8, rtol=0)
    assert critic.target(transition(True)).item() == 1.0


def test_critic_loss_is_half_the_squared_error_summed_over_twins():
    # y = 1: (0 + 1) / 2
    assert make("critic", "soft_q").loss(transition(True)).item() == 0.5


def test_temperature_loss_and_its_gradient():
    # log alpha = 0, log pi = -1.2, target -2: -(-1.2 - 2) = 3.2 in the paper's form; entropy 1.2 > -2: alpha falls
    batch = rows(sample_logp=[[-1.2]])
    paper = make("coefficient", "auto", target=-2.0, variant="paper")
    assert_close(paper.loss(batch).item(), 3.2)
    for variant in ("paper", "released"):  # at log alpha = 0 both have the gradient 3.2
        auto = make("coefficient", "auto", target=-2.0, variant=variant)
        auto.loss(batch).backward()
        (log_alpha,) = auto.parameters()
        assert_close(log_alpha.grad.item(), 3.2)
        torch.optim.SGD([log_alpha], lr=0.1).step()
        assert auto.value(0.0) < 1


def test_actor_gradient_flows_through_the_action_but_not_into_alpha():
    # alpha log pi(a) - min Q(a) for a = mu + eps under N(mu, 1), Q = -a^2 (twice): gradient in mu is 2 a
    mean = tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    action = mean + 0.5
    logp = torch.distributions.Normal(mean, 1.0).log_prob(action)
    batch = rows(q=torch.stack([-action.square(), -action.square() + 1]), sample_logp=logp)
    auto = make("coefficient", "auto", target=-1.0)
    penalty = make("regularizer", "entropy", estimator="sample")(batch)
    loss = make("objective", "value_gradient")(batch) + auto.value(0.0) * penalty
    loss.sum().backward()
    assert_close(mean.grad.item(), 1.6)
    assert auto.parameters()[0].grad is None
