"""Rewards, by hand."""

from math import cos, log, pi

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, exact
from torch import tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.batch import MissingFieldError
from unirl.errors import UserError


def lengths(*counts, score):
    """Rows with these numbers of decisions."""
    mask = torch.arange(max(counts) + 1) < tensor(counts)[:, None]
    return Batch(mask=mask, score=tensor(score).double())


def test_combine_sums_decisions_first():
    # .5 * 2 + 3 * (1 + 4) = 16; the 99 is no decision
    batch = rows(
        mask=tensor([[True, True, False]]), rewards={"accuracy": [2.0], "cost": [[1.0, 4.0, 99.0]]}, score=[7.0]
    )
    part = make("reward", "combine", weights={"accuracy": 0.5, "cost": 3.0})
    assert part(batch).score.tolist() == [16.0]
    assert part.reads == ("rewards.accuracy", "rewards.cost")


def test_combine_names_a_component_that_is_missing():
    batch = rows(mask=tensor([[True]]), rewards={"accuracy": [2.0]})
    with pytest.raises(MissingFieldError, match=r"combine.*rewards\.format"):
        make("reward", "combine", weights={"format": 1.0})(batch)
    with pytest.raises(UserError, match="weights"):
        make("reward", "combine", weights={})


def test_outcome_is_paid_at_the_last_decision():
    batch = rows(
        mask=tensor([[True, True, False], [True, False, True], [False] * 3]),
        score=[2.0, 3.0, 4.0],
        reward=[[9.0] * 3] * 3,
    )
    assert make("reward", "outcome")(batch).reward.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [0.0] * 3]


@given(batches())
def test_outcome_keeps_the_sum_of_rewards(batch):
    paid = make("reward", "outcome")(batch).reward.sum(1)
    assert_close(paid, torch.where(batch.mask.any(1), batch.score, 0))


def test_kl_in_reward_charges_the_log_ratio_of_the_old_policy():
    # 1 - .5 * (2 - .5) = .25; outside the mask nothing changes; k3 of log 2 is .1931471806
    batch = rows(
        reward=[[1.0, 5.0]],
        old_logp=[[2.0, 3.0]],
        logp=[[7.0, 7.0]],
        anchor_logp={"ref": [[0.5, 0.0]]},
        score=[4.0],
        mask=tensor([[True, False]]),
    )
    charged = make("reward", "kl_in_reward", coef=0.5)(batch)
    assert charged.reward.tolist() == [[0.25, 5.0]] and charged.score.tolist() == [4.0]
    k3 = make("reward", "kl_in_reward", coef=1.0, to="prev", estimator="k3")
    batch = rows(reward=[[0.0]], old_logp=exact([[log(2.0)]]), anchor_logp={"prev": [[0.0]]})
    assert_close(k3(batch).reward.item(), -0.1931471806, atol=1e-10, rtol=0)
    with pytest.raises(UserError, match="estimator"):
        make("reward", "kl_in_reward", coef=1.0, estimator="exact")


def test_length_cosine_by_hand():
    # correct: 2 at length 0, 1.5 half way; wrong: -10 at length 0, -5 half way; at the limit the cut costs -10
    batch = lengths(0, 50, 0, 50, 100, score=[1.0, 1.0, 0.0, 0.0, 1.0])
    assert_close(make("reward", "length_cosine", max_length=100)(batch).score.tolist(), [2.0, 1.5, -10.0, -5.0, -10.0])
    uncut = make("reward", "length_cosine", max_length=100, exceed=None)
    assert_close(uncut(lengths(100, 100, score=[1.0, 0.0])).score.tolist(), [1.0, 0.0])
    # a quarter of the way: 1 + .5 (1 + cos(pi / 4)) = 1.8535533906
    quarter = make("reward", "length_cosine", max_length=100)(lengths(25, score=[1.0])).score.item()
    assert_close(quarter, 1 + 0.5 * (1 + cos(pi / 4)))


def test_length_cosine_prefers_short_right_and_long_wrong_answers():
    counts = list(range(0, 100, 9))
    part = make("reward", "length_cosine", max_length=100)
    right, wrong = (part(lengths(*counts, score=[s] * len(counts))).score for s in (1.0, 0.0))
    assert right.diff().lt(0).all() and wrong.diff().gt(0).all() and right.min() > wrong.max()


def test_open_rs_cosine_reward():
    # [60]: correct 1 -> .5, wrong 0 -> -.5 over 100 decisions
    part = make(
        "reward",
        "length_cosine",
        max_length=100,
        correct_start=1.0,
        correct_end=0.5,
        wrong_start=0.0,
        wrong_end=-0.5,
        exceed=None,
    )
    scored = part(lengths(0, 50, 100, 0, 50, 100, score=[1.0] * 3 + [0.0] * 3)).score
    assert_close(scored.tolist(), [1.0, 0.75, 0.5, 0.0, -0.25, -0.5])


def test_length_subtracts_the_distance_to_the_target():
    # 1 - .1 * |3 - 5| = .8, 1 - .1 * |8 - 5| = .7
    scored = make("reward", "length", target=5, coef=0.1)(lengths(3, 8, score=[1.0, 1.0])).score
    assert_close(scored.tolist(), [0.8, 0.7])
    with pytest.raises(UserError, match="target"):
        make("reward", "length", target=-1)


def test_overlong_penalty_grows_linearly_in_the_buffer():
    # limit 100, buffer 20: 0 at 80, .5 at 90, 1 at 101
    scored = make("reward", "overlong", max_length=100, buffer=20)(lengths(80, 90, 101, score=[1.0] * 3)).score
    assert_close(scored.tolist(), [1.0, 0.5, 0.0])
    for hyper in ({"buffer": 0}, {"max_length": 10, "buffer": 20}):
        with pytest.raises(UserError, match="buffer"):
            make("reward", "overlong", **hyper)


def one_decision(*score):
    return lengths(*[1] * len(score), score=list(score))


def test_normalize_over_the_batch():
    # 1, 3: mean 2, population deviation 1
    part = make("reward", "normalize", scope="batch")
    assert_close(part(one_decision(1.0, 3.0)).score.tolist(), [-1.0, 1.0])
    assert part.state_dict()["count"] == 0
    assert len(part(Batch(mask=torch.zeros(0, 1, dtype=torch.bool), score=torch.zeros(0))).score) == 0
    assert make("reward", "normalize", scope="batch")(one_decision(5.0)).score.tolist() == [0.0]


def test_normalize_runs_over_every_score_seen():
    # 1, 3 then 5, 7: mean 4, population variance (9 + 1 + 1 + 9) / 4 = 5
    part = make("reward", "normalize")
    part(one_decision(1.0, 3.0))
    assert_close(part(one_decision(5.0, 7.0)).score.tolist(), [1 / 5**0.5, 3 / 5**0.5])
    uncentred = make("reward", "normalize", center=False, clip=2.0)
    assert_close(uncentred(one_decision(1.0, 3.0)).score.tolist(), [1.0, 2.0])


def test_normalize_continues_from_its_state():
    part, other = make("reward", "normalize"), make("reward", "normalize")
    part(one_decision(1.0, 3.0, 4.0))
    other.load_state_dict(part.state_dict())
    assert torch.equal(part(one_decision(2.0)).score, other(one_decision(2.0)).score)
    with pytest.raises(UserError, match="did you mean running"):
        make("reward", "normalize", scope="run")


def test_win_rate_is_the_mean_margin_over_a_rows_games():
    # row 0 beats row 1 with .9 and row 2 with .6: (.4 + .1) / 2; row 3 did not play
    batch = rows(mask=torch.ones(4, 1, dtype=torch.bool), pairs=[[0, 1], [0, 2]], pair_label=[0.9, 0.6])
    assert_close(make("reward", "win_rate")(batch).score, tensor([0.25, -0.4, -0.1, 0.0]).double())


@given(batches(min_rows=2))
def test_win_rate_of_single_games_sums_to_zero(batch):
    single = batch.replace(pairs=batch.pairs[:1], pair_label=batch.pair_label[:1])
    assert_close(make("reward", "win_rate")(single).score.sum().item(), 0.0)
