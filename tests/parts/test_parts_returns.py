"""Distributions of returns, by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from unirl import Batch
from unirl.critics.returns import Atoms, GaussianReturns, returns_of


def test_atoms_by_hand():
    atoms = Atoms(torch.tensor([1.0, 4.0, 1.0, 6.0])[:, None, None])
    assert_close(atoms.mean(), torch.tensor([[3.0]]))
    assert_close(atoms.std(), torch.tensor([[4.5]]).sqrt())  # deviations -2, 1, -2, 3: 18 / 4
    assert_close(atoms.lower(2.0), 3.0 - 2.0 * torch.tensor([[4.5]]).sqrt())
    assert_close(atoms.truncated(1), torch.tensor([1.0, 1.0, 4.0])[:, None, None])
    assert atoms.sample(torch.Generator().manual_seed(0)).item() in (1.0, 4.0, 6.0)


def test_gaussian_by_hand():
    gaussian = GaussianReturns(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    assert_close(gaussian.lower(0.5), torch.tensor([[0.0]]))
    assert_close(gaussian.lower(-1.0), torch.tensor([[3.0]]))
    many = GaussianReturns(torch.ones(100, 1000), torch.full((100, 1000), 2.0))
    drawn = many.sample(torch.Generator().manual_seed(0), limit=3.0)
    assert abs(float(drawn.mean()) - 1.0) < 0.03  # its standard error is .006
    assert abs(float(drawn.std()) - 1.97) < 0.03  # clipping at three deviations takes 1.4 % off
    assert float((drawn - 1.0).abs().max()) <= 6.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.floats(-3, 3))
def test_one_atom_or_no_pessimism_leaves_the_mean(values, beta):
    atoms = Atoms(torch.tensor(values, dtype=torch.float64)[:, None, None])
    assert_close(atoms.lower(0.0), atoms.mean())
    assert_close(Atoms(atoms.values[:1]).lower(beta), atoms.values[0])


def test_the_field_with_a_spread_is_gaussian():
    q = torch.tensor([[[1.0]], [[3.0]]])
    plain, spread = Batch(q=q), Batch(q=q, q_std=torch.ones_like(q))
    assert_close(returns_of(plain, "q").std(), torch.tensor([[1.0]]))
    assert_close(returns_of(spread, "q").mean(), q)
    assert_close(returns_of(Batch(value_pred=torch.ones(2, 3)), "value_pred").std(), torch.zeros(2, 3))
