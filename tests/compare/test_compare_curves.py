import pytest

from unirl.compare.chart import compact, line_chart, padded, sparkline, ticks
from unirl.compare.curves import Band, band
from unirl.compare.results import Curve, Run


def run_with(samples, score):
    seconds = tuple(2.0 * x for x in samples)
    curve = Curve(tuple(samples), seconds, tuple(score))
    return Run(None, "ppo", "control", "hopper", 0, {}, curve, {})


def test_band_reads_seeds_between_their_evaluations_and_extrapolates_nothing():
    # seed A: (0, 0) (10, 10) (20, 20); seed B: (5, 1) (15, 3). Both cover [5, 15]; union of x there: 5, 10, 15
    # A: 5, 10, 15; B: 1, 2, 3 -> mean 3, 6, 9
    found = band([run_with([0, 10, 20], [0, 10, 20]), run_with([5, 15], [1, 3])], "samples")
    assert found == Band((5.0, 10.0, 15.0), (3.0, 6.0, 9.0), (1.0, 2.0, 3.0), (5.0, 10.0, 15.0))


def test_band_against_seconds_uses_seconds():
    assert band([run_with([0, 10], [0, 1])], "seconds").x == (0.0, 20.0)


def test_band_leaves_out_runs_without_an_evaluation():
    assert band([run_with([], []), run_with([0, 1], [2, 3])], "samples").mean == (2.0, 3.0)
    assert band([run_with([], [])], "samples").x == ()


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
    chart = line_chart(
        {"ppo": Band((0.0, 200.0), (0.0, 100.0), (0.0, 100.0), (0.0, 100.0))}, {"ppo": 0}, "samples", "x"
    )
    assert chart.series[0].line == "M0.0,946.4L1000.0,53.6"
    assert chart.series[0].area == ""  # one seed: no band


def test_chart_area_goes_along_the_highest_and_back_along_the_lowest():
    # range 0..100 with margin 6: 100 -> 53.6, 0 -> 946.4
    chart = line_chart({"ppo": Band((0.0, 1.0), (50.0, 50.0), (0.0, 0.0), (100.0, 100.0))}, {"ppo": 0}, "samples", "x")
    assert chart.series[0].area == "M0.0,53.6L1000.0,53.6L1000.0,946.4L0.0,946.4Z"


def test_no_chart_without_evaluations():
    assert line_chart({"ppo": Band((), (), (), ())}, {"ppo": 0}, "samples", "x") is None
    assert sparkline(Band((0.0,), (1.0,), (1.0,), (1.0,)), 0.0, 1.0) == ""


@pytest.mark.parametrize(
    ("value", "label"), [(0, "0"), (500, "500"), (20_000, "20k"), (1_500_000, "1.5M"), (2e9, "2G")]
)
def test_compact_labels(value, label):
    assert compact(value) == label
