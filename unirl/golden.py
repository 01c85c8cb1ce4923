"""A plateau with steep but smooth edges, in the constants that Symphony takes from the golden ratio."""

import math

import torch
from torch import Tensor

PHI = (1 + math.sqrt(5)) / 2


def plateau(x: Tensor, center: float) -> Tensor:
    r"""Close to 1 within about 1/2 of the center, then falling fast; at most 1.

    .. math:: \exp\big(-(\varphi\,|x - c|)^{2e}\big)
    """
    return torch.exp(-((PHI * (x - center).abs()) ** (2 * math.e)))
