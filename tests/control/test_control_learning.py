"""Every method of control learns on a small budget: see `control_budgets.py`."""

import pytest
from control_budgets import BUDGETS, LEAST, overrides

from unirl.config import compose
from unirl.run import train


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", BUDGETS)
def test_a_method_learns_to_balance(method, seed, tmp_path):
    result = train(compose(overrides(method, seed, tmp_path / "run")))
    assert result["score_end"] > LEAST[method], result
