"""LOOP [121]: the catalogue's numbers, the three granularities of its ratio, and one copy of the model in memory."""

from math import log

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.config import compose
from unirl.domain import DomainInfo
from unirl.errors import UserError
from unirl.method import Method
from unirl.run import build

LEAVE_ONE_OUT = make("advantage", "group", center="leave_one_out", scale="none")
TOTAL = make("reduce", "sequence_sum")
TOKEN = make("objective", "ppo_clip")
JOINT = {unit: make("objective", "ppo_clip_joint", unit=unit) for unit in ("trajectory", "turn")}


def exact(values: object) -> torch.Tensor:
    return tensor(values, dtype=torch.float64)


def loss_of(objective, batch: Batch, reduce=TOTAL) -> tuple[torch.Tensor, torch.Tensor]:
    """The reduced loss and its gradient in `logp`."""
    leaf = batch.logp.clone().requires_grad_()
    batch = batch.replace(logp=leaf)
    loss = reduce(objective(batch), batch)
    loss.backward()
    return loss.detach(), leaf.grad


def test_the_advantages_of_the_catalogue():
    # K = 4, mean 1/2: A = 4/3 (R - 1/2)
    batch = rows(score=[1.0, 0.0, 0.0, 1.0], group=[0, 0, 0, 0], mask=torch.ones(4, 1, dtype=torch.bool))
    advantage = LEAVE_ONE_OUT(batch).advantage[:, 0]
    assert_close(advantage, exact([2 / 3, -2 / 3, -2 / 3, 2 / 3]))
    assert advantage.sum() == 0


@st.composite
def attempts(draw: st.DrawFn) -> Batch:
    """Responses of up to three turns to two tasks, with what users and tools say in between masked out."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (6, draw(st.integers(1, 8)))
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[:, 0] = True
    batch = Batch(
        mask=mask,
        logp=torch.randn(shape, generator=generator, dtype=torch.float64),
        score=torch.rand(6, generator=generator, dtype=torch.float64),
        group=tensor([0, 0, 0, 1, 1, 1]),
        turn=torch.randint(3, shape, generator=generator).sort(1).values,
    )
    return LEAVE_ONE_OUT(batch.replace(old_logp=batch.logp))


@settings(max_examples=20)
@given(attempts(), st.sampled_from(["sequence_sum", "token_mean", "sequence_mean"]))
def test_where_nothing_has_moved_the_gradient_is_exactly_rloos(batch, reduce):
    rloo = loss_of(make("objective", "policy_gradient"), batch, make("reduce", reduce))[1]
    assert torch.equal(loss_of(TOKEN, batch, make("reduce", reduce))[1], rloo)


@settings(max_examples=20)
@given(attempts())
def test_every_granularity_begins_with_rloos_gradient(batch):
    rloo = loss_of(make("objective", "policy_gradient"), batch)[1]
    for objective in JOINT.values():
        assert_close(loss_of(objective, batch)[1], rloo)


@settings(max_examples=20)
@given(attempts(), st.integers(0, 2**31))
def test_the_trajectorys_ratio_is_the_product_of_its_tokens(batch, seed):
    # unclipped (0, inf) and with advantage 1, the loss of a row is minus its ratio
    noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batch = batch.replace(old_logp=batch.logp + noise, advantage=torch.ones_like(batch.logp))
    ratio = torch.where(batch.mask, (-noise).exp(), 1.0)
    wide = {"clip_low": 1.0, "clip_high": float("inf")}
    whole = make("objective", "ppo_clip_joint", **wide)(batch)
    assert_close(torch.where(batch.mask, whole, 0).sum(1), -ratio.prod(1))
    by_turn = torch.stack([torch.where(batch.turn == turn, ratio, 1.0).prod(1) for turn in range(3)], 1)
    present = torch.stack([(batch.mask & (batch.turn == turn)).any(1) for turn in range(3)], 1)
    turns = make("objective", "ppo_clip_joint", unit="turn", **wide)(batch)
    assert_close(torch.where(batch.mask, turns, 0).sum(1), -(by_turn * present).sum(1))


def test_the_three_granularities_by_hand():
    # token ratios 1.5, .8 | 1.1, turns {0, 0} and {1}, A = 1: clipped at 1.2
    #   token: -(1.2 + .8 + 1.1) = -3.1;  turn: 1.5 * .8 = 1.2, 1.1: -2.3;  trajectory: 1.32 clipped: -1.2
    ratios = [1.5, 0.8, 1.1]
    batch = rows(
        logp=[[log(r) for r in ratios] + [5.0]],
        old_logp=[[0.0] * 4],
        advantage=[[1.0] * 4],
        turn=[[0, 0, 1, 1]],
        mask=[[True, True, True, False]],
    )
    # a clipped ratio has no gradient; another has itself, on every decision that it is the product of
    loss, gradient = loss_of(TOKEN, batch)
    assert_close(loss, exact(-3.1))
    assert_close(gradient, exact([[0.0, -0.8, -1.1, 0.0]]))
    lower = batch.replace(old_logp=exact([[0.01, 0.0, 0.0, 0.0]]))  # the first turn's ratio 1.2 e^-.01: inside the clip
    loss, gradient = loss_of(JOINT["turn"], lower)
    inside = 1.2 * torch.exp(exact(-0.01))
    assert_close(loss, -(inside + 1.1))
    assert_close(gradient, -torch.stack([inside, inside, exact(1.1), exact(0.0)])[None])
    loss, gradient = loss_of(JOINT["trajectory"], batch)
    assert_close(loss, exact(-1.2))
    assert_close(gradient, exact([[0.0, 0.0, 0.0, 0.0]]))


def test_a_negative_advantage_clips_from_below():
    # ratio .5 * .8 = .4 of the row, A = -1: max(.4, .8) = .8, no gradient
    batch = rows(logp=[[log(0.5), log(0.8)]], old_logp=[[0.0, 0.0]], advantage=[[-1.0, -1.0]])
    loss, gradient = loss_of(JOINT["trajectory"], batch)
    assert_close(loss, exact(0.8))
    assert_close(gradient, exact([[0.0, 0.0]]))


def test_an_unknown_unit_is_one_line():
    with pytest.raises(UserError, match="unknown unit of objective 'ppo_clip_joint' 'tokens'"):
        make("objective", "ppo_clip_joint", unit="tokens")


@pytest.mark.parametrize("domain", ["control", "llm"])
def test_the_method_is_made_of_these_parts(domain, tmp_path):
    config = compose(["method=loop", f"domain={domain}", f"out={tmp_path}"])
    info = DomainInfo(domain, "any", independent_decisions=False, target_entropy=0.0, sample_unit="steps")
    method = Method.from_config(config["method"], info)
    assert (method.objective, method.advantage) == (TOKEN, (LEAVE_ONE_OUT,))
    assert config["method"]["source"]["group_size"] == 6
    assert not method.critics and not method.terms
    tied = rows(score=[1.0, 1.0, 0.0, 1.0], group=[0, 0, 1, 1], mask=torch.ones(4, 1, dtype=torch.bool))
    assert method.prepare(tied).weight[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]


def storages(*groups) -> dict[int, int]:
    """Bytes by address of everything that these tensors occupy."""
    found = {}
    for tensors in groups:
        for value in tensors:
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def test_policy_reference_and_old_policy_share_one_copy_of_the_weights(tmp_path):
    words = ["method=loop", "domain=llm", "task=addition", "iterations=2", "method.source.rows=12", f"out={tmp_path}"]
    more = ["method.regularizers=[{name: kl, to: ref, estimator: k3, coef: 0.04}]", "method.anchors={ref: {}}"]
    plain = build(compose(["domain=llm", "task=addition", "iterations=1", f"out={tmp_path}"]), None).domain.policy
    base = sum(storages(plain.parameters()).values())
    trainer = build(compose([*words, *more, "model.lora.rank=4"]), None)
    trainer.iterate()  # the policy, the reference and the old policy have all been asked for log-probabilities
    variants = trainer.domain._variants
    assert variants.anchors == {"ref": None}  # the reference is the base with its adapter off: no tensor of its own
    held = sum(storages(trainer.domain.policy.parameters(), trainer.domain.policy.buffers()).values())
    adapter = sum(storages(trainer.domain.parameters("policy")).values())
    assert 0 < adapter < base / 2
    assert held - adapter == base + sum(storages(plain.buffers()).values())
    frozen = [p for p in trainer.domain.policy.parameters() if not p.requires_grad]
    assert sum(storages(frozen).values()) == base
    assert not set(storages(trainer.domain.parameters("policy"))) & set(storages(frozen))
