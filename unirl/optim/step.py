"""The optimizer step: which losses are stepped together, in which order, how often."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unirl.errors import UserError, unknown
from unirl.optim.average import WeightAverage
from unirl.optim.gradients import Closure, Plain
from unirl.registry import make

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: max(1.0 - progress, 0.0),
    "cosine": lambda progress: 0.5 * (1.0 + float(torch.cos(torch.tensor(min(progress, 1.0) * torch.pi)))),
}


class Update:
    """Steps each loss's own parameters, one loss after the other, or all of them at once.

    `together`: one backward pass and one gradient norm over all losses (PPO with a shared trunk or a joint clip);
    otherwise each loss sees the parameters that the one before it has just changed (SAC, TD3, IQL).
    `every`: how often a loss is stepped, e.g. `{"policy": 2}` for TD3's delayed actor; targets move with the policy.
    """

    def __init__(
        self,
        parameters: Mapping[str, list[nn.Parameter]],
        optimizers: Mapping[str, torch.optim.Optimizer],
        *,
        together: bool = False,
        every: Mapping[str, int] | None = None,
        clip_norm: float | None = None,
        schedule: str = "constant",
        warmup: float = 0.0,
        gradient: Any = None,
        average: float | None = None,
    ) -> None:
        self._parameters = {name: params for name, params in parameters.items() if params}
        self._optimizers = dict(optimizers)
        self._blocks = [tuple(self._parameters)] if together else [(name,) for name in self._parameters]
        self._every = dict(every or {})
        self._clip_norm = clip_norm
        self._schedule = SCHEDULES[schedule]
        self._warmup = warmup
        self._gradient = gradient or Plain()
        self._average = WeightAverage(self._parameters.get("policy", []), average) if average is not None else None
        self._base_lr = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self._optimizers.items()}
        self.steps = 0

    def __call__(self, closure: Closure, progress: float = 0.0) -> dict[str, Tensor]:
        """Run every block that is due; returns loss values and, where clipping is on, gradient norms."""
        reported: dict[str, Tensor] = {}
        for block in self._blocks:
            due = [name for name in block if self.is_due(name)]
            if due:
                reported.update(self._step(due, closure, progress))
        self.steps += 1
        if self._average is not None:
            self._average.update()
        return reported

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the policy has its averaged weights, where an average is kept."""
        if self._average is None:
            yield
            return
        self._average.swap()
        try:
            yield
        finally:
            self._average.swap()

    def is_due(self, name: str) -> bool:
        """Whether the named loss is stepped at this step."""
        return self.steps % self._every.get(name, 1) == 0

    def _step(self, names: list[str], closure: Closure, progress: float) -> dict[str, Tensor]:
        for name in names:
            self._optimizers[name].zero_grad(set_to_none=True)
        parameters = [parameter for name in names for parameter in self._parameters[name]]
        scale = self._rate_scale(progress)
        values = self._gradient(closure, names, parameters, self._base_lr[names[0]] * scale)
        reported = {f"loss/{name}": value for name, value in values.items()}
        if self._clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(parameters, self._clip_norm)
            reported["gradient_norm/" + "+".join(names)] = norm
        for name in names:
            for group in self._optimizers[name].param_groups:
                group["lr"] = self._base_lr[name] * scale
            self._optimizers[name].step()
        return reported

    def _rate_scale(self, progress: float) -> float:
        """The schedule after a linear rise: Adam's first steps are as large as its rate, whatever the gradient."""
        return self._schedule(progress) * min(1.0, (progress + 1e-3) / self._warmup if self._warmup else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer moments, the number of steps, and what the gradient rule and the average keep."""
        state: dict[str, Any] = {
            "steps": self.steps,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
        }
        for name, part in self._stateful():
            state[name] = part.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.steps = int(state["steps"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(dict(state["optimizers"][name]))
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    def _stateful(self) -> list[tuple[str, Any]]:
        parts = [("gradient", self._gradient), ("average", self._average)]
        return [(name, part) for name, part in parts if hasattr(part, "state_dict")]


def make_update(config: Mapping[str, Any], parameters: Mapping[str, list[nn.Parameter]]) -> Update:
    """Build the update from a method's `update` section.

    `name` (adam, adamw, sgd, rmsprop), `lr` (a number, or one per loss), `clip_norm`, `schedule`, `warmup` (the
    fraction of training in which the rate rises to `lr`), `together`, `actor_every`, `gradient` (a part of kind
    `gradient`), `average` (decay of averaged weights, used in evaluation), and `eps`, `betas`, `weight_decay`,
    `momentum`, `alpha` for the optimizer. Raises `UserError` for anything else.
    """
    options = dict(config)
    name = options.pop("name", "adam")
    if name not in OPTIMIZERS:
        raise unknown("update.name", name, OPTIMIZERS)
    schedule = options.pop("schedule", "constant")
    if schedule not in SCHEDULES:
        raise unknown("update.schedule", schedule, SCHEDULES)
    rates = options.pop("lr", 3e-4)
    warmup = float(options.pop("warmup", 0.0))
    together, clip_norm = bool(options.pop("together", False)), options.pop("clip_norm", None)
    actor_every = int(options.pop("actor_every", 1))
    rule = options.pop("gradient", None)
    average = options.pop("average", None)
    settings = ("eps", "betas", "weight_decay", "momentum", "alpha")
    extra: dict[str, Any] = {key: options.pop(key) for key in settings if key in options}
    if options:
        raise unknown("update key", next(iter(options)), UPDATE_KEYS)
    optimizers = {
        loss: _optimizer(name, params, _rate(rates, loss), extra) for loss, params in parameters.items() if params
    }
    every = {"policy": actor_every, "temperature": actor_every}
    return Update(
        parameters,
        optimizers,
        together=together,
        every=every,
        clip_norm=clip_norm,
        schedule=schedule,
        warmup=warmup,
        gradient=_gradient_rule(rule) if rule else None,
        average=average,
    )


UPDATE_KEYS = (
    *("name", "lr", "schedule", "warmup", "together", "clip_norm", "actor_every", "gradient", "average"),
    *("eps", "betas", "weight_decay", "momentum", "alpha", "epochs", "minibatches"),
)


def _gradient_rule(entry: Any) -> Any:
    options = {"name": entry} if isinstance(entry, str) else dict(entry)
    return make("gradient", options.pop("name"), **options)


def _rate(rates: Any, loss: str) -> float:
    rate = rates.get(loss, rates.get("default")) if isinstance(rates, Mapping) else rates
    if not isinstance(rate, int | float) or not 0 <= rate < 1e3:
        raise UserError(f"method.update.lr for '{loss}' is {rate!r}; give a number such as 3e-4, or one per loss")
    return float(rate)


def _optimizer(name: str, parameters: list[nn.Parameter], lr: float, extra: dict[str, Any]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"fused": True} if name in ("adam", "adamw", "sgd") else {}
    try:
        return OPTIMIZERS[name](parameters, lr=lr, **options, **extra)  # type: ignore[call-arg]
    except TypeError as error:
        raise UserError(f"method.update: {error}") from error
