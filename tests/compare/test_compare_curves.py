import math

import pytest

from unirl.compare.chart import compact, line_chart, padded, ticks, whisker
from unirl.compare.curves import POINTS, Band, bands_of, bands_over_tasks, reached
from unirl.compare.results import Curve, Run
from unirl.compare.statistics import Estimate


def run_with(samples, score, normalised=(), finished=True):
    seconds = tuple(2.0 * x for x in samples)
    curve = Curve(tuple(samples), seconds, tuple(score), tuple(normalised))
    return Run(None, "ppo", "control", "hopper", 0, {}, curve, {"seconds": 1.0} if finished else {})


def test_band_reads_seeds_between_their_evaluations_and_extrapolates_nothing():
    # seed A: (0, 0) (10, 10) (20, 20); seed B: (5, 1) (15, 3). Both cover [5, 15]; union of x there: 5, 10, 15
    # A: 5, 10, 15; B: 1, 2, 3 -> mean of two 3, 6, 9; two resampled runs are twice A or twice B one time in four each
    found = bands_of([run_with([0, 10, 20], [0, 10, 20]), run_with([5, 15], [1, 3])])["samples"]
    assert found == Band((5.0, 10.0, 15.0), (3.0, 6.0, 9.0), (1.0, 2.0, 3.0), (5.0, 10.0, 15.0))


def test_band_is_the_interquartile_mean():
    # four seeds, flat at 0, 1, 3 and 100: (1 + 3) / 2
    assert bands_of([run_with([0, 1], [y, y]) for y in (0, 1, 3, 100)])["samples"].value == (2.0, 2.0)


def test_band_of_one_seed_has_no_interval():
    found = bands_of([run_with([0, 10], [0, 1])])["samples"]
    assert found.value == (0.0, 1.0)
    assert all(math.isnan(y) for y in (*found.low, *found.high))


def test_band_against_seconds_uses_seconds():
    assert bands_of([run_with([0, 10], [0, 1])])["seconds"].x == (0.0, 20.0)


def test_band_leaves_out_runs_without_an_evaluation():
    assert bands_of([run_with([], []), run_with([0, 1], [2, 3])])["samples"].value == (2.0, 3.0)
    assert bands_of([run_with([], [])])["samples"].x == ()


def test_a_run_that_has_just_begun_does_not_cut_the_curve_of_finished_ones():
    runs = [run_with([0, 10], [0, 1]), run_with([0, 1], [5, 5], finished=False)]
    assert bands_of(runs)["samples"].x == (0.0, 10.0)
    assert bands_of(runs[1:])["samples"].value == (5.0, 5.0)  # better than nothing


def test_no_band_where_seeds_have_no_x_in_common():
    assert bands_of([run_with([0, 1], [0, 1]), run_with([2, 3], [0, 1])])["samples"].x == ()


def test_long_curves_are_thinned():
    many = list(range(1000))
    assert len(bands_of([run_with(many, many)])["samples"].x) == POINTS


def test_band_over_tasks_averages_normalised_scores_at_the_same_percent_of_each_task():
    # task A runs 0..200 samples from 0 to 100, task B 0..10 from 50 to 60: at half, (50 + 55) / 2
    tasks = [[run_with([0, 200], [0, 0], [0, 100])], [run_with([0, 5, 10], [0, 0, 0], [50, 55, 60])]]
    found = bands_over_tasks(tasks, (200.0, 10.0))["samples"]
    assert (found.x, found.value) == ((0.0, 50.0, 100.0), (25.0, 52.5, 80.0))


def test_band_over_tasks_ends_with_the_shortest_in_seconds():
    tasks = [[run_with([0, 200], [0, 0], [0, 100])], [run_with([0, 5, 10], [0, 0, 0], [50, 55, 60])]]
    assert bands_over_tasks(tasks, (200.0, 10.0))["seconds"].x == (0.0, 10.0, 20.0)


def test_reached_is_linear_between_points_and_none_if_never():
    curve = Band((0.0, 10.0, 20.0, 30.0), (0.0, 4.0, 2.0, 8.0), (), ())
    assert reached(curve, 3.0) == 7.5  # on the first way up
    assert reached(curve, 5.0) == 25.0
    assert (reached(curve, 0.0), reached(curve, 9.0)) == (0.0, None)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 1005, [0, 250, 500, 750, 1000]), (-5, 5, [-4, -2, 0, 2, 4])],
)
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_a_range_of_one_value_is_widened():
    assert padded(0.0, 0.0) == (-0.5, 0.5)
    assert padded(100.0, 100.0) == pytest.approx((90.0, 110.0))


def test_chart_paths_lie_in_a_box_of_1000_with_y_downwards():
    # x 0..200 -> 0..1000; scores 0..100 with 6 % margin: range -6..106, so 0 -> 1000 * 106/112 = 946.4, 100 -> 53.6
    none = (math.nan, math.nan)
    chart = line_chart({"ppo": Band((0.0, 200.0), (0.0, 100.0), none, none)}, {"ppo": 0}, "samples", "x")
    assert chart.series[0].line == "M0.0,946.4L1000.0,53.6"
    assert chart.series[0].area == ""  # one seed: no band


def test_chart_area_goes_along_the_highest_and_back_along_the_lowest():
    # range 0..100 with margin 6: 100 -> 53.6, 0 -> 946.4
    chart = line_chart({"ppo": Band((0.0, 1.0), (50.0, 50.0), (0.0, 0.0), (100.0, 100.0))}, {"ppo": 0}, "samples", "x")
    assert chart.series[0].area == "M0.0,53.6L1000.0,53.6L1000.0,946.4L0.0,946.4Z"


def test_no_chart_without_two_evaluations():
    assert line_chart({"ppo": Band((), (), (), ())}, {"ppo": 0}, "samples", "x") is None
    assert line_chart({"ppo": Band((0.0,), (1.0,), (0.0,), (2.0,))}, {"ppo": 0}, "samples", "x") is None


def test_whisker_in_percent_of_the_axis():
    # -10..110: 20 is at 30 / 120
    found = whisker(Estimate(50.0, 20.0, 80.0, 3), -10.0, 110.0)
    assert (found.value, found.low, found.high) == (50.0, 25.0, 75.0)
    alone = whisker(Estimate(50.0), 0.0, 100.0)
    assert alone.low == alone.high == 50.0


@pytest.mark.parametrize(
    ("value", "label"), [(0, "0"), (500, "500"), (20_000, "20k"), (1_500_000, "1.5M"), (2e9, "2G")]
)
def test_compact_labels(value, label):
    assert compact(value) == label
