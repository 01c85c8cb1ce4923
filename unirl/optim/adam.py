"""Adam and AdamW for small networks."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class FusedAdam(torch.optim.Optimizer):
    r"""Adam (Kingma & Ba 2015) by torch's fused kernel, called once for all parameters of a group.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        \theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    `torch.optim.Adam` runs hooks and sorts tensors by device and type in every step, which takes longer than the kernel
    for layers of 256 units. Here a group is of one device and one type. With `weight_decay` w, w theta is added to g.
    """

    kernel: ClassVar[Callable[..., Any]] = staticmethod(torch._fused_adam_)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
            if stepped:
                self._step(stepped, group)

    step.hooked = True  # type: ignore[attr-defined]  # or torch would wrap it in its hooks

    def _step(self, stepped: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] or self._start(parameter) for parameter in stepped]
        for state in states:
            state["step"] += 1
        device = stepped[0].device
        taken = {state["step"] for state in states}
        counts = {count: torch.tensor(count, dtype=torch.float32, device=device) for count in taken}
        beta1, beta2 = group["betas"]
        self.kernel(
            stepped,
            [parameter.grad for parameter in stepped],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [counts[state["step"]] for state in states],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _start(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        return state


class FusedAdamW(FusedAdam):
    """Adam with decoupled weight decay, theta <- theta - lr w theta (Loshchilov & Hutter 2019)."""

    kernel = staticmethod(torch._fused_adamw_)

    def __init__(self, params: Iterable[Any], weight_decay: float = 1e-2, **settings: Any) -> None:
        super().__init__(params, weight_decay=weight_decay, **settings)
