import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics

from unirl.compare import statistics
from unirl.compare.statistics import balanced, improvement, improvement_estimate, iqm, iqm_curve, iqm_estimate

SCORES = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(-5, 5).map(float))


def test_iqm_by_hand():
    # 8 scores 1 2 3 4 5 6 7 100: two are cut at either end, (3 + 4 + 5 + 6) / 4 = 4.5
    assert iqm(np.array([[1.0, 100.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]])) == 4.5


def test_iqm_of_fewer_than_four_scores_is_their_mean():
    # int(3 / 4) = 0 scores are cut: (1 + 2 + 9) / 3
    assert iqm(np.array([[1.0], [2.0], [9.0]])) == 4.0


def test_iqm_of_a_curve_is_taken_point_by_point():
    # point 0: 0 1 2 9 without 0 and 9; point 1: all 5
    scores = np.array([[[0.0, 5.0]], [[9.0, 5.0]], [[1.0, 5.0]], [[2.0, 5.0]]])
    assert iqm(scores).tolist() == [1.5, 5.0]


def test_improvement_by_hand():
    # 1 beats 0; 2 beats 0 and ties 2; 3 beats 0 and 2: (1 + 1.5 + 2) / 9 = 1/2
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[0.0], [2.0], [4.0]])
    assert improvement(x, y) == 0.5
    # one more run of 5 on the left beats all three: (4.5 + 3) / 12
    assert improvement(np.vstack([x, [[5.0]]]), y) == 0.625


def test_improvement_is_the_mean_over_tasks():
    # task 0: 1 > 0 always; task 1: 0 < 1 always; task 2: a tie
    assert improvement(np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 1.0, 3.0]])) == 0.5
    assert improvement(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 3.0]])) == pytest.approx(2.5 / 3)


@given(SCORES)
def test_iqm_equals_rliable(scores):
    assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))


@settings(max_examples=30)
@given(st.integers(1, 3).flatmap(lambda tasks: st.tuples(*[
    arrays(np.float64, st.tuples(st.integers(2, 5), st.just(tasks)), elements=st.integers(-3, 3).map(float))
] * 2)))  # fmt: skip
def test_improvement_equals_rliable_and_is_one_minus_the_reverse(pair):
    first, second = pair
    assert improvement(first, second) == pytest.approx(metrics.probability_of_improvement(first, second))
    assert improvement(first, second) + improvement(second, first) == pytest.approx(1)


@settings(max_examples=10)
@given(SCORES.filter(lambda scores: len(scores) > 1))
def test_intervals_lie_within_the_scores_and_hold_their_middle(scores):
    found = iqm_estimate(scores)
    assert scores.min() - 1e-9 <= found.low <= found.high <= scores.max() + 1e-9
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


def test_one_run_per_task_has_no_interval():
    found = iqm_estimate(np.array([[1.0, 2.0, 6.0]]))
    assert (found.value, found.has_interval, found.runs) == (3.0, False, 1)
    assert not improvement_estimate(np.array([[1.0]]), np.array([[0.0], [2.0]])).has_interval
    assert np.isnan(iqm_curve(np.array([[[1.0, 2.0]]]))[1]).all()


def test_estimates_repeat_and_leave_the_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    first = (iqm_estimate(x), improvement_estimate(x, y))
    assert (iqm_estimate(x), improvement_estimate(x, y)) == first
    assert (np.random.get_state()[1] == before).all()


def test_the_bootstrap_resamples_runs_within_their_task():
    # task 0 is always 0 and task 1 always 100: whatever is drawn, half of the scores are 0 and half 100
    found = iqm_estimate(np.array([[0.0, 100.0]] * 4))
    assert (found.low, found.value, found.high) == (50.0, 50.0, 50.0)


def test_whole_runs_are_resampled_along_a_curve():
    # two flat runs at 0 and 10: a resampled curve is flat too, so low and high are the same at every point
    value, low, high = iqm_curve(np.array([[[0.0] * 3], [[10.0] * 3]]))
    assert (value.tolist(), low.tolist(), high.tolist()) == ([5.0] * 3, [0.0] * 3, [10.0] * 3)


def test_intervals_cover_the_true_value_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(statistics, "REPETITIONS", 300)
    draws = np.random.default_rng(0)
    found = [iqm_estimate(draws.normal(size=(10, 5))) for _ in range(120)]
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in found])
    assert 0.86 <= covered <= 1.0  # 95 % asked for; percentile intervals of ten runs are a little narrow


def test_balanced_takes_the_first_seeds_of_longer_columns():
    assert balanced([[1.0, 2.0, 3.0], [4.0, 5.0]]).tolist() == [[1.0, 4.0], [2.0, 5.0]]
