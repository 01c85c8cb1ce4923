"""Running statistics by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirl.control.normalize import ObservationNormalizer, RewardScaler, RunningMoments


def test_moments_of_two_batches_by_hand():
    # 1, 3 then 5, 7, 9: mean 25 / 5, variance (16 + 4 + 0 + 4 + 16) / 5
    moments = RunningMoments()
    moments.update(np.array([1.0, 3.0]))
    moments.update(np.array([5.0, 7.0, 9.0]))
    assert (moments.count, moments.mean, moments.var) == (5, pytest.approx(5.0), pytest.approx(8.0))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=6))
def test_moments_do_not_depend_on_how_the_data_is_cut(batches):
    moments, everything = RunningMoments(), np.concatenate(batches)
    for batch in batches:
        moments.update(np.array(batch))
    assert moments.mean == pytest.approx(everything.mean(), abs=1e-9)
    assert moments.var == pytest.approx(everything.var(), abs=1e-6)


def test_observations_are_standardised_and_clipped():
    normalizer = ObservationNormalizer(1, "running")
    normalizer.observe(np.array([[1.0], [3.0]], dtype=np.float32))  # mean 2, standard deviation 1
    np.testing.assert_allclose(normalizer(np.array([[3.5], [50.0]])), [[1.5], [10.0]], rtol=1e-6)
    assert normalizer(np.array([[3.5]])).dtype == np.float32


def test_normalizing_leaves_the_statistics_alone_and_observing_does_not():
    normalizer = ObservationNormalizer(1, "running")
    normalizer(np.array([[1.0]]))
    assert normalizer.moments.count == 0
    normalizer.observe(np.array([[1.0]]))
    assert normalizer.moments.count == 1


@pytest.mark.parametrize("mode", ["off", "fixed"])
def test_only_running_statistics_run(mode):
    normalizer = ObservationNormalizer(1, mode)
    normalizer.observe(np.array([[7.0], [9.0]]))
    assert normalizer.moments.count == 0


def test_fixed_statistics_of_a_dataset():
    normalizer = ObservationNormalizer(2, "off")
    normalizer.fix(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    np.testing.assert_allclose(normalizer.observe(np.array([[5.0, 6.0]])), [[2.0, 1.0]], rtol=1e-6)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    # discount 1/2, one row: rewards 2, 2, | 4: returns 2, 3, and after the end 4; mean 3, variance 2/3
    scaler = RewardScaler(True, 0.5)
    ended = np.array([[False, True, False]])
    scaled, carry = scaler(np.array([[2.0, 2.0, 4.0]]), ended, np.ones((1, 3), dtype=bool), np.zeros(1))
    np.testing.assert_allclose(scaled, np.array([[2.0, 2.0, 4.0]]) / np.sqrt(2 / 3), rtol=1e-6)
    assert carry.tolist() == [4.0]
    # the return goes on: 0.5 * 4 + 1 = 3; moments of 2, 3, 4, 3: variance 1/2
    scaled, carry = scaler(np.array([[1.0]]), np.array([[True]]), np.ones((1, 1), dtype=bool), carry)
    np.testing.assert_allclose(scaled, [[1 / np.sqrt(0.5)]], rtol=1e-6)
    assert carry.tolist() == [0.0]


def test_padding_does_not_enter_the_scale_of_rewards():
    scaler = RewardScaler(True, 1.0)
    mask = np.array([[True, True, False]])
    scaler(np.array([[1.0, 2.0, 0.0]]), np.array([[False, True, False]]), mask, np.zeros(1))
    assert scaler.moments.count == 2  # returns 1 and 3
    assert scaler.moments.var == pytest.approx(1.0)


def test_scaling_that_is_off_or_has_no_spread_changes_nothing():
    reward, ended, mask = np.array([[3.0]]), np.array([[True]]), np.ones((1, 1), dtype=bool)
    assert RewardScaler(False)(reward, ended, mask, np.zeros(1))[0].tolist() == [[3.0]]
    assert RewardScaler(True)(reward, ended, mask, np.zeros(1))[0].tolist() == [[3.0]]
