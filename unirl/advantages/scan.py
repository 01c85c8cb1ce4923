"""Discounted sums to the end of a row, without a loop over time."""

from torch import Tensor
from torch.nn.functional import pad


def reverse_scan(values: Tensor, decay: Tensor) -> Tensor:
    r"""Solve the linear recurrence x_t = values_t + decay_t x_{t+1}, with x = 0 after the last column.

    [N, T], [N, T] -> [N, T]. Doubles the reach of every column in each of log2(T) vectorised steps (Hillis & Steele
    1986): nothing is divided, so it is as stable as the loop and exact where `decay` is 0.
    """
    reach = 1
    while reach < values.shape[1]:
        values = values + decay * pad(values[:, reach:], (0, reach))
        decay = decay * pad(decay[:, reach:], (0, reach))
        reach *= 2
    return values
