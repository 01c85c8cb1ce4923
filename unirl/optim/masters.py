"""Float32 copies of half-precision parameters, for the optimizer to step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


class MasterWeights:
    r"""What the optimizer steps in place of parameters in bfloat16 or float16, which would lose small updates.

    .. math:: \theta_{32} \leftarrow \theta_{32} + \Delta, \qquad \theta \leftarrow \mathrm{round}(\theta_{32})

    bfloat16 holds 8 significant bits: a weight just below 1 moves by steps of 2^-8 = 4e-3, and an update of less than
    half of one is lost. Updates add up in float32 and reach the model when their sum is large enough. Gradients are
    taken over in float32 and clipped there; with `accumulate` every micro-batch's at once, so that they add up in
    float32 as well (300 ones are 256 in bfloat16), which leaves nothing in the parameters' own `.grad`. A parameter
    that something else has moved (a line search, another run's weights) is taken over first.
    Costs 4 bytes per parameter, and moments in float32. Source: Micikevicius et al. 2018 (Mixed Precision Training).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], accumulate: bool = False) -> None:
        half = dict.fromkeys(parameter for parameter in parameters if parameter.dtype in HALF)
        self._masters = {parameter: nn.Parameter(parameter.detach().float()) for parameter in half}
        self._known = {parameter: parameter._version for parameter in half}  # torch counts changes in place
        for parameter in half if accumulate else ():
            parameter.register_post_accumulate_grad_hook(self._take)

    def __len__(self) -> int:
        return len(self._masters)

    def of(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The parameters, those in half precision replaced by their masters."""
        return [self._masters.get(parameter, parameter) for parameter in parameters]

    @torch.no_grad()
    def begin(self) -> None:
        """Before a step: no gradients, and masters that round to what their parameters are now."""
        for parameter, master in self._masters.items():
            parameter.grad = master.grad = None
            if parameter._version != self._known[parameter]:
                kept = master.to(parameter.dtype) == parameter
                master.copy_(torch.where(kept, master, parameter.float()))
                self._known[parameter] = parameter._version

    def take_gradients(self) -> None:
        """Move the parameters' gradients to the masters, in float32; without one, neither moves in this step."""
        for parameter in self._masters:
            if parameter.grad is not None:
                self._take(parameter)

    def _take(self, parameter: Any) -> None:
        master, gradient = self._masters[parameter], parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """After a step: round the masters that were stepped to their parameters."""
        for parameter, master in self._masters.items():
            if master.grad is not None:
                parameter.copy_(master)
                master.grad = None
                self._known[parameter] = parameter._version

    def state_dict(self) -> dict[str, Sequence[Tensor]]:
        """The masters, which a model's own checkpoint has only rounded."""
        return {"masters": [master.detach() for master in self._masters.values()]}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for master, saved in zip(self._masters.values(), state["masters"], strict=True):
            master.copy_(saved)
