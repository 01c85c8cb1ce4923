"""Advantages, checked by hand and against plain loops."""

import numpy as np
import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches
from torch import tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.advantages.scan import reverse_scan
from unirl.errors import UserError


def segment(**fields):
    ends = {"terminated": [[False] * 3], "truncated": [[False] * 3]}
    return rows(**{**ends, **fields})


def test_reverse_scan_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    values, decay = torch.randn(2, 3, 37, generator=generator, dtype=torch.float64)
    expected, carry = torch.zeros_like(values), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(37)):
        carry = values[:, t] + decay[:, t] * carry
        expected[:, t] = carry
    assert_close(reverse_scan(values, decay), expected)


def test_mc_discounts_to_the_end_of_the_row():
    # 1 + .5 (2 + .5 * 4) = 3, 2 + .5 * 4 = 4, 4
    batch = make("advantage", "mc", gamma=0.5)(segment(reward=[[1.0, 2.0, 4.0]]))
    assert_close(batch.returns, tensor([[3.0, 4.0, 4.0]]).double())
    assert_close(batch.advantage, batch.returns)


def test_mc_starts_anew_after_an_episode_ends_within_the_row():
    ended = segment(reward=[[1.0, 2.0, 4.0]], terminated=[[False, True, False]])
    assert_close(make("advantage", "mc", gamma=0.5)(ended).returns, tensor([[2.0, 2.0, 4.0]]).double())


def test_mc_bootstraps_a_cut_episode_only_if_the_batch_has_next_value():
    # truncated at 2: 2 + .5 * 10 = 7, then 1 + .5 * 7 = 4.5; the row's end cuts the third: 4 + .5 * 20 = 14
    cut = segment(reward=[[1.0, 2.0, 4.0]], truncated=[[False, True, False]])
    part = make("advantage", "mc", gamma=0.5)
    assert_close(part(cut).returns, tensor([[2.0, 2.0, 4.0]]).double())
    known = cut.replace(next_value=tensor([[99.0, 10.0, 20.0]]).double())
    assert_close(part(known).returns, tensor([[4.5, 7.0, 14.0]]).double())
    terminated = known.replace(terminated=tensor([[False, False, True]]))
    assert_close(part(terminated).returns, tensor([[4.5, 7.0, 4.0]]).double())


def test_mc_subtracts_the_value_when_asked():
    batch = segment(reward=[[1.0, 2.0, 4.0]], value=[[1.0, 1.0, 1.0]], next_value=[[1.0, 1.0, 0.0]])
    filled = make("advantage", "mc", baseline="value")(batch)
    assert_close(filled.returns, tensor([[7.0, 6.0, 4.0]]).double())
    assert_close(filled.advantage, tensor([[6.0, 5.0, 3.0]]).double())


def test_mc_refuses_an_unknown_baseline():
    with pytest.raises(UserError, match="did you mean value"):
        make("advantage", "mc", baseline="values")


def test_gae_by_hand():
    # gamma .5, lambda .5: deltas 1 + .5*2 - 1 = 1, 1 + .5*4 - 2 = 1, 1 + .5*2 - 4 = -2
    # advantages, backwards: -2, 1 + .25 * -2 = .5, 1 + .25 * .5 = 1.125
    batch = segment(reward=[[1.0] * 3], value=[[1.0, 2.0, 4.0]], next_value=[[2.0, 4.0, 2.0]])
    filled = make("advantage", "gae", gamma=0.5, lam=0.5)(batch)
    assert_close(filled.advantage, tensor([[1.125, 0.5, -2.0]]).double())
    assert_close(filled.returns, tensor([[2.125, 2.5, 2.0]]).double())


def test_gae_bootstraps_at_truncation_but_not_at_termination():
    # one decision, reward 1, value 2, the next state is worth 4: 1 + .5 * 4 - 2 = 1 or 1 - 2 = -1
    one = {"reward": [[1.0]], "value": [[2.0]], "next_value": [[4.0]]}
    part = make("advantage", "gae", gamma=0.5)
    assert_close(part(rows(terminated=[[False]], truncated=[[True]], **one)).advantage, tensor([[1.0]]).double())
    assert_close(part(rows(terminated=[[True]], truncated=[[False]], **one)).advantage, tensor([[-1.0]]).double())


def test_gae_does_not_leak_across_the_end_of_an_episode():
    fields = {"value": [[1.0, 2.0, 4.0]], "next_value": [[2.0, 7.0, 0.0]], "truncated": [[False, True, False]]}
    part = make("advantage", "gae")
    calm = part(segment(reward=[[1.0, 1.0, 1.0]], **fields)).advantage
    wild = part(segment(reward=[[1.0, 1.0, 1e6]], **fields)).advantage
    assert_close(calm[:, :2], wild[:, :2])


def test_gae_passes_over_decisions_outside_the_mask():
    mask = tensor([[True, False, True]])
    gap = segment(reward=[[1.0, 1e6, 1.0]], value=[[1.0, 1e6, 4.0]], next_value=[[4.0, 1e6, 2.0]], mask=mask)
    close = rows(
        reward=[[1.0, 1.0]],
        value=[[1.0, 4.0]],
        next_value=[[4.0, 2.0]],
        terminated=[[False, False]],
        truncated=[[False, False]],
    )
    part = make("advantage", "gae", gamma=0.5, lam=0.5)
    assert_close(part(gap).advantage[mask], part(close).advantage[0])
    assert part(gap).advantage[0, 1] == 0


@given(batches())
def test_gae_equals_a_loop_over_each_episode(batch):
    filled = make("advantage", "gae", gamma=0.9, lam=0.8)(batch)
    for i in range(len(batch)):
        carry = 0.0
        for t in reversed(range(batch.mask.shape[1])):
            ended = bool(batch.terminated[i, t] | batch.truncated[i, t])
            if not batch.mask[i, t]:
                carry = 0.0 if ended else carry
                continue
            following = 0.0 if batch.terminated[i, t] else batch.next_value[i, t]
            delta = batch.reward[i, t] + 0.9 * following - batch.value[i, t]
            carry = delta + 0.9 * 0.8 * (0.0 if ended else carry)
            assert_close(filled.advantage[i, t], carry)


@given(batches())
def test_gae_with_lambda_one_is_mc_with_baseline(batch):
    gae = make("advantage", "gae", gamma=0.9, lam=1.0)(batch)
    mc = make("advantage", "mc", gamma=0.9, baseline="value")(batch)
    assert_close(gae.advantage, mc.advantage)
    assert_close(gae.returns, mc.returns)


@given(batches())
def test_advantages_carry_no_gradient(batch):
    batch = batch.replace(value=batch.value.clone().requires_grad_(), score=batch.score.clone().requires_grad_())
    for name in ("gae", "mc", "group", "q_minus_v", "batch_norm"):
        assert not make("advantage", name)(batch).advantage.requires_grad, name


def test_group_standardises_within_the_group_by_sample_deviation():
    # group 7: 1, 3: mean 2, sample deviation sqrt(2); group 5: 0, 0: equal scores teach nothing
    batch = rows(score=[1.0, 0.0, 3.0, 0.0], group=[7, 5, 7, 5], mask=torch.ones(4, 2, dtype=torch.bool))
    filled = make("advantage", "group", eps=0.0)(batch).advantage
    assert_close(filled[::2], tensor([[-(0.5**0.5)] * 2, [0.5**0.5] * 2]).double())
    assert make("advantage", "group")(batch).advantage[1::2].eq(0).all()


def test_group_is_divided_by_deviation_plus_eps():
    # scores 1 and 0: mean 1/2, sample deviation sqrt(1/2): .5 / (.70710678 + 1e-6) = .70710578
    batch = rows(score=[1.0, 0.0], group=[0, 0], mask=torch.ones(2, 1, dtype=torch.bool))
    assert_close(make("advantage", "group")(batch).advantage[0, 0].item(), 0.70710578, atol=1e-8, rtol=0)


def test_group_options_by_hand():
    batch = rows(score=[1.0, 2.0, 6.0], group=[0, 0, 0], mask=torch.ones(3, 1, dtype=torch.bool))

    def column(**options):
        return make("advantage", "group", **options)(batch).advantage[:, 0].tolist()

    assert column(center="none", scale="none") == [1.0, 2.0, 6.0]
    assert column(scale="none") == [-2.0, -1.0, 3.0]
    assert column(center="leave_one_out", scale="none") == [-3.0, -1.5, 4.5]  # 1 - (2 + 6)/2, 2 - 7/2, 6 - 3/2
    # squared deviations 4 + 1 + 9 = 14: sample variance 7, population variance 14/3
    assert_close(column(eps=0.0)[2], 3 / 7**0.5)
    assert_close(column(eps=0.0, ddof=0)[2], 3 / (14 / 3) ** 0.5)


def test_group_scale_over_the_batch_is_that_of_all_scores():
    # scores 0, 2 | 5, 5: group means 1 and 5; all about 3: 9 + 1 + 4 + 4 = 18, sample variance 6
    batch = rows(score=[0.0, 2.0, 5.0, 5.0], group=[0, 0, 1, 1], mask=torch.ones(4, 1, dtype=torch.bool))
    filled = make("advantage", "group", scope="batch", eps=0.0)(batch).advantage[:, 0]
    assert_close(filled, tensor([-1.0, 1.0, 0.0, 0.0]).double() / 6**0.5)


def test_a_row_alone_in_its_group_has_no_advantage():
    batch = rows(score=[3.0], group=[0], mask=torch.ones(1, 2, dtype=torch.bool))
    for center in ("mean", "leave_one_out"):
        assert make("advantage", "group", center=center)(batch).advantage.eq(0).all()
    assert make("advantage", "group", center="none")(batch).advantage.eq(3).all()


def test_group_gives_equal_float32_scores_no_advantage():
    batch = Batch(score=torch.full((8,), 0.1), group=torch.zeros(8).long(), mask=torch.ones(8, 1, dtype=torch.bool))
    assert make("advantage", "group")(batch).advantage.abs().max() < 1e-9


@given(batches(min_rows=2))
def test_leave_one_out_is_the_centred_score_times_g_over_g_minus_one(batch):
    batch = batch.replace(group=torch.zeros(len(batch)).long())
    centred = make("advantage", "group", scale="none")(batch).advantage
    held_out = make("advantage", "group", center="leave_one_out", scale="none")(batch).advantage
    assert_close(held_out, centred * len(batch) / (len(batch) - 1))


def test_group_refuses_unknown_options():
    with pytest.raises(UserError, match="did you mean leave_one_out"):
        make("advantage", "group", center="leave_one")


def test_batch_norm_by_hand():
    # masked values 1, 3: mean 2, sample deviation sqrt 2; the 99 is not a decision
    batch = rows(advantage=[[1.0, 3.0, 99.0]], mask=tensor([[True, True, False]]))
    half = 0.5**0.5
    assert_close(make("advantage", "batch_norm")(batch).advantage, tensor([[-half, half, 0.0]]).double())
    kept = make("advantage", "batch_norm", center=False)(batch).advantage
    assert_close(kept, tensor([[half, 3 * half, 0.0]]).double())


def test_batch_norm_leaves_a_single_decision_alone():
    assert make("advantage", "batch_norm")(rows(advantage=[[5.0]])).advantage.item() == 5.0


def test_q_minus_v_takes_the_smaller_head():
    batch = rows(target_q_data=[[[3.0, 1.0]], [[2.0, 4.0]]], value=[[1.0, 1.0]])
    assert make("advantage", "q_minus_v")(batch).advantage.tolist() == [[1.0, 0.0]]
    assert make("advantage", "q_minus_v", target="mean")(batch).advantage.tolist() == [[1.5, 1.5]]
    assert make("advantage", "q_minus_v", target="first")(batch).advantage.tolist() == [[2.0, 0.0]]


@pytest.mark.peers
def test_gae_equals_stable_baselines3():
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    spaces = pytest.importorskip("gymnasium").spaces
    steps, envs, gamma, lam = 50, 3, 0.97, 0.9
    draw = np.random.default_rng(0)
    reward, value = draw.normal(size=(2, steps, envs)).astype(np.float32)
    terminated = draw.random((steps, envs)) < 0.1
    truncated = (draw.random((steps, envs)) < 0.1) & ~terminated
    final, last = draw.normal(size=(steps, envs)).astype(np.float32), draw.normal(size=envs).astype(np.float32)

    done = terminated | truncated
    box = spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(steps, box, box, device="cpu", gae_lambda=lam, gamma=gamma, n_envs=envs)
    for t in range(steps):
        begins = done[t - 1] if t else np.ones(envs, dtype=bool)
        bootstrapped = reward[t] + gamma * truncated[t] * final[t]  # how that library treats time limits
        zeros = np.zeros((envs, 1))
        buffer.add(zeros, zeros, bootstrapped, begins, torch.tensor(value[t]), torch.zeros(envs))
    buffer.compute_returns_and_advantage(torch.tensor(last), done[-1])

    following = np.concatenate([value[1:], last[None]])
    batch = Batch(
        mask=torch.ones(envs, steps, dtype=torch.bool),
        reward=torch.tensor(reward.T),
        value=torch.tensor(value.T),
        next_value=torch.tensor(np.where(terminated, 0, np.where(truncated, final, following)).T),
        terminated=torch.tensor(terminated.T),
        truncated=torch.tensor(truncated.T),
    )
    filled = make("advantage", "gae", gamma=gamma, lam=lam)(batch)
    assert_close(filled.advantage, torch.tensor(buffer.advantages.T), atol=1e-5, rtol=1e-5)
    assert_close(filled.returns, torch.tensor(buffer.returns.T), atol=1e-5, rtol=1e-5)
