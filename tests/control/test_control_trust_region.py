"""The trust-region rule on a policy of the control domain."""

import pytest
import torch

from unirl import make
from unirl.config import compose
from unirl.errors import UserError
from unirl.run import build, train


def test_differences_of_gradients_are_the_fisher_products_of_a_policy():
    words = ["method=trpo", "task=inverted_pendulum", "model.hidden=[16,16]", "method.source.rows=256", "out=unused"]
    trainer = build(compose(words), None)
    trainer.domain.copy_policy("prev")
    minibatch = trainer.method.with_divisors(trainer.domain.rollout(256, unit="segment"))
    parameters = trainer.domain.parameters("policy")
    vector = torch.randn(sum(p.numel() for p in parameters), generator=torch.Generator().manual_seed(0))
    rule = make("gradient", "trust_region")
    start = [p.detach().clone() for p in parameters]
    found = rule._fisher_product(vector, lambda names: trainer._gradients(minibatch, names), parameters, start)
    scored = trainer.domain.score(minibatch, {"kl_from_anchor.prev"})
    loss = trainer.method.losses(scored, ["policy/kl"])["policy/kl"]
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    curved = torch.autograd.grad(slope @ vector, parameters)
    expected = torch.cat([c.reshape(-1) for c in curved]) + 0.1 * vector
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_a_step_of_trpo_has_the_divergence_that_was_asked_for(tmp_path):
    words = ["method=trpo", "task=inverted_pendulum", "model.hidden=[16,16]", "method.source.rows=512"]
    words += ["iterations=1", "logs=1", "evaluations=0", "checkpoints=0", f"out={tmp_path / 'run'}"]
    trainer = build(compose(words), None)
    before = [parameter.detach().clone() for parameter in trainer.domain.parameters("policy")]
    trainer.iterate()
    measured = trainer._means.take()
    assert 0.002 < measured["loss/policy/kl"] <= 0.01
    assert any((old != new).any() for old, new in zip(before, trainer.domain.parameters("policy"), strict=True))
    assert measured["loss/value"] > 0


def test_constraints_need_a_rule_that_holds_them():
    with pytest.raises(UserError, match=r"has constraints \(kl\), which only a gradient rule can hold"):
        build(compose(["method=trpo", "task=inverted_pendulum", "method.update.gradient=null", "out=unused"]), None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_trpo_learns_to_balance(seed, tmp_path):
    words = ["method=trpo", "task=inverted_pendulum", "samples=20480", "evaluations=1", "checkpoints=0"]
    result = train(compose([*words, f"seed={seed}", f"out={tmp_path / 'run'}"]))
    assert result["score_end"] - result["score_start"] > 30
