"""Grids of perturbed worlds, and the reports made of them."""

import pytest
from matplotlib import image

from unirl.errors import UserError
from unirl.perturbation import Grid, flattened
from unirl.robustness import save_plot


def test_nested_names_become_dotted_ones():
    assert flattened({"mass": {"torso": 1.5}, "gravity": 2}) == {"mass.torso": 1.5, "gravity": 2}
    assert flattened({"mass.torso": 1.5}) == flattened({"mass": {"torso": 1.5}})


def test_bounds_become_five_values_in_equal_ratios_around_one():
    # ratio (2 / .5)^(1/4) = sqrt 2
    assert Grid.of({"gravity": [0.5, 2]}).swept == {"gravity": (0.5, 0.707107, 1.0, 1.41421, 2.0)}


def test_bounds_from_zero_become_equal_steps():
    assert Grid.of({"noise": [0, 1]}).swept == {"noise": (0.0, 0.25, 0.5, 0.75, 1.0)}


def test_three_values_are_the_values_and_one_is_fixed():
    grid = Grid.of({"a": [1, 3, 2], "b": {"c": 4}})
    assert grid.points() == [{"b.c": 4.0, "a": value} for value in (1.0, 3.0, 2.0)]


def test_two_quantities_give_every_combination():
    points = Grid.of({"a": [1, 2, 3], "b": [4, 5, 6]}).points()
    assert len(points) == 9 and points[:4] == [
        {"a": 1.0, "b": 4.0},
        {"a": 1.0, "b": 5.0},
        {"a": 1.0, "b": 6.0},
        {"a": 2.0, "b": 4.0},
    ]


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        ({"gravity": 2}, "perturb varies nothing; give bounds or values of one or two quantities"),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, "perturb varies a, b, c;"),
        ({"a": [2, 1]}, "the lower bound comes first"),
        ({"a": [2]}, r"give \[low, high\], or three values and more"),
        ({"a": [1, "x"]}, "a holds 'x', which is no number"),
        ({"a": [1, 2], "b": True}, "b holds True, which is no number"),
    ],
)
def test_a_grid_that_makes_no_sense_is_one_clear_line(perturb, message):
    with pytest.raises(UserError, match=message):
        Grid.of(perturb)


def test_a_plot_is_transparent_and_holds_a_line_per_value_of_the_second_quantity(tmp_path):
    grid = Grid.of({"a": [1, 2, 4], "b": [0, 1, 2]})
    results = [{"perturb": point, "score": point["a"] * point["b"], "score_std": 0.5} for point in grid.points()]
    save_plot(grid, results, tmp_path / "deep" / "plot.png", "a title")
    pixels = image.imread(tmp_path / "deep" / "plot.png")
    assert pixels[0, 0, 3] == 0  # the page shows through: dark or light
    solid = pixels[pixels[..., 3] > 0.99][:, :3]
    for colour in ("2f7fc1", "d9691a", "1a9a72"):
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        assert (abs(solid - wanted).max(1) < 0.01).sum() > 100
