"""Dual RL and imitation in a real world: a few dozen updates of each method, and what its models compute there."""

import json

import pytest
import torch
from control_worlds import CLOCK, SMALL
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.domain import QSpec, Requirements
from unirl.run import build, train

COMMON = ["task=inverted_pendulum", "task.demonstrations={episodes: 2, noise: 0.3}", "evaluation_episodes=2"]
LOSSES = {
    "f_dvl": {"value", "q", "policy"},
    "xql": {"value", "q", "policy"},
    "dual_awr": {"value", "policy"},
    "o_dice": {"value/state", "value/forward", "value/backward", "policy"},
    "recoil": {"value", "q", "policy"},
    "smodice": {"expert_discriminator", "value/state", "value/both", "policy"},
    "iq_learn": {"q", "policy"},
    "iq_learn_offline": {"q", "policy"},
}
WORDS = {
    "dual_awr": ["iterations=2", "method.source.rows=128", "method.update.minibatches=2"],
    "iq_learn": ["iterations=30", "method.source.warmup=50"],
}
DICE = "{name: dice, lam: 0.6, side: %s}"
VARIANTS = {
    ("f_dvl", "method.critic.0.loss=total_variation"): LOSSES["f_dvl"],
    ("o_dice", f"method.critic=[{DICE % 'state'}, {DICE % 'forward'}]", "method.update.gradient=plain"): {
        *("value/state", "value/forward", "policy"),
    },
    ("o_dice", f"method.critic=[{DICE % 'state'}, {DICE % 'both'}]", "method.update.gradient=plain"): {
        *("value/state", "value/both", "policy"),
    },
    (
        "recoil",
        "method.critic=[{name: v, loss: expectile, target: q_data, source: 3}, {name: contrast}, {name: recoil_q}]",
    ): LOSSES["recoil"],
    ("iq_learn_offline", "method.critic={name: dual_q, semi: true, states: others, contrast: 0.5, chi_square: 1.0}"): {
        "q",
        "policy",
    },
    ("smodice", "method.critic.0={name: expert_discriminator, of: pairs}"): LOSSES["smodice"],
}


def losses_of(method, tmp_path, *more):
    words = [f"method={method}", *COMMON, *WORDS.get(method, ["iterations=30"]), "evaluations=1", *more]
    train(compose([*words, f"out={tmp_path / 'run'}"]))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    return [
        {k.removeprefix("loss/"): v for k, v in r.items() if k.startswith("loss/")}
        for r in records
        if "loss/policy" in r
    ]


@pytest.mark.parametrize("method", LOSSES)
def test_a_method_trains_the_losses_that_it_names(method, tmp_path):
    found = losses_of(method, tmp_path)
    assert set(found[-1]) == LOSSES[method]


@pytest.mark.parametrize("words", VARIANTS)
def test_its_variants_are_settings_of_the_same_parts(words, tmp_path):
    method, *settings = words
    assert set(losses_of(method, tmp_path, *settings)[-1]) == VARIANTS[words]


def test_the_backward_gradient_of_real_networks_is_orthogonal_to_the_forward_one(tmp_path):
    trainer = build(compose(["method=o_dice", *COMMON, f"out={tmp_path / 'run'}"]), None)
    batch = trainer.domain.score(trainer.source.next(), trainer.method.prepares_with)
    minibatch = trainer.method.with_divisors(trainer.method.prepare(batch))
    parameters = trainer.domain.parameters("value")

    def gradient(names, rule=None):
        for parameter in parameters:
            parameter.grad = None
        closure = lambda asked: trainer._gradients(minibatch, asked)  # noqa: E731
        closure(names) if rule is None else rule(closure, names, parameters, 0.1)
        return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])

    state, forward, backward = (gradient([f"value/{side}"]) for side in ("state", "forward", "backward"))
    total = gradient(["value/state", "value/forward", "value/backward"], trainer.update._gradient)
    left = total - state - forward
    assert abs(torch.cosine_similarity(backward, forward, 0)) > 0.5  # there was something to remove
    assert abs(torch.cosine_similarity(left, forward, 0)) < 1e-3
    assert left.norm() > 1e-3


def domain_with(model, **options):
    domain = ControlDomain({"env": "Hopper-v5"}, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(Requirements(models={model: options}))
    return domain


@pytest.mark.parametrize("of", ["states", "pairs"])
def test_a_discriminators_slope_is_that_of_its_network(of):
    domain = domain_with("expert_discriminator", of=of)
    batch = domain.rollout(8, unit="segment")
    model = domain.models["expert_discriminator"]
    with torch.no_grad():  # tanh(w x) with tiny w is linear: its gradient is the product of the layers
        for weight in model.network.weights[:1]:
            weight.mul_(1e-4)
        for bias in model.network.biases:
            bias.zero_()
        product = model.network.weights[0] @ model.network.weights[1]
    scored = domain.score(batch, {"model.expert_slope", "model.expert_logit"})
    assert_close(scored.model["expert_slope"], torch.full((1, 8), (product.norm() - 1).square().item()))
    scored.model["expert_slope"].sum().backward()
    assert all(parameter.grad is not None for parameter in domain.parameters("expert_discriminator")[:2])


def test_values_of_the_policys_actions_train_the_critics_and_not_the_policy():
    domain = ControlDomain(CLOCK, SMALL)
    domain.build(Requirements(q=QSpec(heads=2), models={"policy_values": {}}))
    fields = {f"model.policy_{name}" for name in ("q", "logp", "next_q", "next_logp")}
    batch = domain.score(domain.rollout(6, unit="segment"), fields)
    assert batch.model["policy_q"].shape == batch.model["policy_next_q"].shape == (1, 6, 2)
    assert batch.terminated.any()
    assert (batch.model["policy_next_q"][batch.terminated] == 0).all()
    assert (batch.model["policy_next_q"][~batch.terminated] != 0).all()
    assert not batch.model["policy_logp"].requires_grad
    (batch.model["policy_q"].sum() + batch.model["policy_next_q"].sum()).backward()
    assert all(parameter.grad is not None for parameter in domain.parameters("q"))
    assert all(parameter.grad is None for parameter in domain.parameters("policy"))
