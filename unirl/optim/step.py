"""The optimizer step: which losses are stepped together, in which order, how often."""

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any

import torch
from torch import nn

from unirl.domain import role_of
from unirl.errors import NonFiniteError, UserError, unknown
from unirl.optim.adam import FusedAdam, FusedAdamW
from unirl.optim.average import WeightAverage
from unirl.optim.gradients import Closure, Plain
from unirl.optim.masters import MasterWeights
from unirl.registry import make

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": FusedAdam,
    "adamw": FusedAdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
EIGHT_BIT = "adamw8bit"  # of another package, imported where it is asked for
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: max(1.0 - progress, 0.0),
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))),
}


class Update:
    """Steps each loss's own parameters, one block of losses after the other.

    `together`: a single block, with one backward pass and one gradient norm over all losses (PPO with a shared trunk or
    a joint clip). Otherwise each loss is a block and sees the parameters that the one before it has just changed
    (SAC, TD3, IQL); only learned coefficients go with the policy, whose scored minibatch serves both.
    `every`: how often a loss is stepped, e.g. `{"policy": 2}` for TD3's delayed actor, and how often `targets` move.
    `optimizers` has one entry per block, in the order of `blocks(parameters, together)`; they hold the `masters` of
    parameters in half precision, where there are any. Each of their groups names its `schedule`.
    """

    def __init__(
        self,
        parameters: Mapping[str, list[nn.Parameter]],
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        together: bool = False,
        every: Mapping[str, int] | None = None,
        clip_norm: float | None = None,
        warmup: float = 0.0,
        gradient: Any = None,
        average: float | None = None,
        masters: MasterWeights | None = None,
    ) -> None:
        self._parameters = {name: params for name, params in parameters.items() if params}
        self._together = together
        self._blocks = blocks(self._parameters, together)
        self._optimizers = list(optimizers)
        self._every = dict(every or {})
        self._clip_norm = clip_norm
        self._warmup = warmup
        self._gradient = gradient or Plain()
        self._average = WeightAverage(self._parameters.get("policy", []), average) if average is not None else None
        self._masters = masters
        self._rates = [
            [(group["lr"], SCHEDULES[group["schedule"]]) for group in optimizer.param_groups]
            for optimizer in self._optimizers
        ]
        self.steps = 0

    def __call__(self, closure: Closure, progress: float = 0.0) -> dict[str, float]:
        """Run every block that is due; returns loss values and, where clipping is on, gradient norms."""
        reported: dict[str, float] = {}
        rise = self._rise(progress)
        for block, optimizer, rates in zip(self._blocks, self._optimizers, self._rates, strict=True):
            due = [name for name in block if self.is_due(name)]
            if due:
                for group, (rate, schedule) in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * schedule(progress) * rise
                reported.update(self._step(due, optimizer, closure))
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
        with self._average.in_place():
            yield

    def is_due(self, name: str) -> bool:
        """Whether the named loss is stepped at this step."""
        return self.steps % self._every.get(role_of(name), 1) == 0

    @property
    def evaluates_once(self) -> bool:
        """Whether a step evaluates its losses just once, at the parameters that it starts from."""
        return bool(getattr(self._gradient, "evaluates_once", False))

    def _step(self, names: list[str], optimizer: torch.optim.Optimizer, closure: Closure) -> dict[str, float]:
        """Step the named losses' parameters; raises `NonFiniteError`, before anything is stepped, where one is NaN."""
        for parameter in chain.from_iterable(group["params"] for group in optimizer.param_groups):
            parameter.grad = None  # `zero_grad` costs ten times as much
        if self._masters is not None:
            self._masters.begin()
        parameters = self._of(names)
        values = self._gradient(closure, names, parameters, optimizer.param_groups[0]["lr"])
        if self._masters is not None:
            self._masters.take_gradients()
        losses = {name: float(value) for name, value in values.items()}
        norms = self._clip(names)
        if not all(map(math.isfinite, (*losses.values(), *norms.values()))):
            raise NonFiniteError(tuple(names), losses, math.hypot(*norms.values()))
        optimizer.step()
        torch.autograd.graph.increment_version(parameters)  # fused steps leave torch's counters of changes alone
        if self._masters is not None:
            self._masters.write_back()
        reported = {f"loss/{name}": value for name, value in losses.items()}
        return reported if self._clip_norm is None else {**reported, **norms}

    def _of(self, names: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of these losses, each once."""
        return list(dict.fromkeys(chain.from_iterable(self._parameters[name] for name in names)))

    def _clip(self, names: list[str]) -> dict[str, float]:
        """The gradient norm of all losses together, or of each; where a clip is set, gradients are scaled to it."""
        norms: dict[str, float] = {}
        for joint in [names] if self._together else _by_role(names):
            stepped = self._of(joint) if self._masters is None else self._masters.of(self._of(joint))
            gradients = [parameter.grad for parameter in stepped if parameter.grad is not None]
            norm = math.hypot(*torch.stack(torch._foreach_norm(gradients)).tolist()) if gradients else 0.0
            if self._clip_norm is not None and norm > self._clip_norm:
                torch._foreach_mul_(gradients, self._clip_norm / norm)
            norms["gradient_norm/" + "+".join(joint)] = norm
        return norms

    def _rise(self, progress: float) -> float:
        """The share of the rates in warm-up: Adam's first steps are as large as its rate, whatever the gradient."""
        return min(1.0, (progress + 1e-3) / self._warmup if self._warmup else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer moments, the number of steps, and what the gradient rule and the average keep."""
        state: dict[str, Any] = {
            "steps": self.steps,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        for name, part in self._stateful():
            state[name] = part.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.steps = int(state["steps"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(dict(saved))
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    def _stateful(self) -> list[tuple[str, Any]]:
        parts = [("gradient", self._gradient), ("average", self._average), ("masters", self._masters)]
        return [(name, part) for name, part in parts if hasattr(part, "state_dict")]


def make_update(config: Mapping[str, Any], parameters: Mapping[str, list[nn.Parameter]]) -> Update:
    """Build the update from a method's `update` section.

    `name` (adam, adamw, sgd, rmsprop; adamw8bit, with moments in 8 bits, needs the package bitsandbytes and a GPU),
    `lr` (a number, or one per loss), `clip_norm`, `schedule` (how the rate falls over training: constant, linear,
    cosine; or one per loss, e.g. `{policy: cosine}`), `warmup` (the fraction of training in which the rate rises to
    `lr`), `together`, `actor_every`, `targets_every` (as `actor_every` unless it is given), `gradient` (a part of kind
    `gradient`), `average` (decay of averaged weights, used in evaluation), `master_weights` (true: parameters in half
    precision are stepped as float32 copies, see `MasterWeights`), `weight_decay` (a number, or one per loss), and
    `eps`, `betas`, `momentum`, `alpha` for the optimizer. What is given per loss may have a `default`; losses without a
    schedule are constant, those without a weight decay have none.
    Raises `UserError` for anything else.
    """
    options = dict(config)
    name = options.pop("name", "adam")
    if name not in (*OPTIMIZERS, EIGHT_BIT):
        raise unknown("update.name", name, (*OPTIMIZERS, EIGHT_BIT))
    rates, schedules = options.pop("lr", 3e-4), options.pop("schedule", "constant")
    decays = options.pop("weight_decay", None)
    for key, given in (("lr", rates), ("schedule", schedules), ("weight_decay", decays)):
        _check_losses(key, given, parameters)
    warmup = float(options.pop("warmup", 0.0))
    together, clip_norm = bool(options.pop("together", False)), options.pop("clip_norm", None)
    actor_every = int(options.pop("actor_every", 1))
    targets_every = int(options.pop("targets_every", actor_every))
    rule = options.pop("gradient", None)
    average = options.pop("average", None)
    with_masters = bool(options.pop("master_weights", True))
    if clip_norm is not None and (not isinstance(clip_norm, int | float) or clip_norm <= 0):
        raise UserError(f"method.update.clip_norm is {clip_norm!r}; give a positive number, or null for none")
    extra: dict[str, Any] = {key: options.pop(key) for key in ("eps", "betas", "momentum", "alpha") if key in options}
    _check_settings(extra)
    if options:
        raise unknown("update key", next(iter(options)), UPDATE_KEYS)
    trained = {loss: params for loss, params in parameters.items() if params}
    gradient = _gradient_rule(rule) if rule else Plain()
    masters = MasterWeights(
        chain.from_iterable(trained.values()) if with_masters else (),
        accumulate=getattr(gradient, "evaluates_once", False),  # other rules look at the parameters' own gradients
    )

    def per_loss(loss: str) -> dict[str, Any]:
        return {"lr": _rate(rates, loss), "schedule": _schedule(schedules, loss), **_decay(decays, loss)}

    optimizers = [
        _optimizer(name, [(masters.of(trained[loss]), per_loss(loss)) for loss in block], extra)
        for block in blocks(trained, together)
    ]
    every = {"policy": actor_every, "temperature": actor_every, "targets": targets_every}
    return Update(
        parameters,
        optimizers,
        together=together,
        every=every,
        clip_norm=clip_norm,
        warmup=warmup,
        gradient=gradient,
        average=average,
        masters=masters if len(masters) else None,
    )


def _by_role(names: Iterable[str]) -> list[list[str]]:
    """Losses of the same parameters together."""
    return [list(group) for _, group in groupby(names, role_of)]


def blocks(losses: Iterable[str], together: bool) -> list[tuple[str, ...]]:
    """Which losses are stepped at once: all, or those of the same parameters, and the temperature with the policy."""
    if together:
        return [tuple(losses)]
    joint: dict[str, list[str]] = {}
    for loss in losses:
        role = role_of(loss)
        joint.setdefault("policy" if role == "temperature" else role, []).append(loss)
    last = joint.pop("policy", None)
    return [tuple(block) for block in (*joint.values(), last) if block]


UPDATE_KEYS = (
    *("name", "lr", "schedule", "warmup", "together", "clip_norm", "actor_every", "targets_every", "gradient"),
    *("average", "epochs", "minibatches", "master_weights"),
    *("eps", "betas", "weight_decay", "momentum", "alpha"),
)


def _gradient_rule(entry: Any) -> Any:
    options = {"name": entry} if isinstance(entry, str) else dict(entry)
    return make("gradient", options.pop("name"), **options)


def _check_losses(key: str, given: Any, losses: Iterable[str]) -> None:
    """Raise `UserError` where `given` is a mapping that names a loss which there is not."""
    known = {"default", *map(role_of, losses)}
    for loss in given if isinstance(given, Mapping) else ():
        if loss not in known:
            raise unknown(f"loss in method.update.{key}", str(loss), known)


def _of_loss(given: Any, loss: str, otherwise: Any = None) -> Any:
    """What is given for a loss: the one value for all, or the mapping's."""
    return given.get(role_of(loss), given.get("default", otherwise)) if isinstance(given, Mapping) else given


def _schedule(schedules: Any, loss: str) -> str:
    schedule = _of_loss(schedules, loss, "constant")
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise unknown("update.schedule", str(schedule), SCHEDULES)
    return schedule


def _rate(rates: Any, loss: str) -> float:
    rate = _of_loss(rates, loss)
    if not isinstance(rate, int | float) or not 0 <= rate < 1e3:
        raise UserError(f"method.update.lr for '{loss}' is {rate!r}; give a number such as 3e-4, or one per loss")
    return float(rate)


def _decay(decays: Any, loss: str) -> dict[str, float]:
    """The loss's weight decay, where one is given: otherwise the optimizer's own default holds."""
    decay = _of_loss(decays, loss, 0.0)
    if decay is None:
        return {}
    if isinstance(decay, bool) or not isinstance(decay, int | float) or decay < 0:
        raise UserError(f"method.update.weight_decay is {decay!r}; give a number such as 1e-4, or one per loss")
    return {"weight_decay": float(decay)}


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for an optimizer's setting that is no number (betas: two), or outside what it may be."""
    for key, value in settings.items():
        pair = key == "betas" and isinstance(value, list | tuple) and len(value) == 2
        numbers = value if pair else (value,)
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers) or pair != (key == "betas"):
            example = {"betas": "[0.9, 0.999]", "eps": "1e-8"}.get(key, "0.9")
            raise UserError(f"method.update.{key} is {value!r}; give something like {example}")


def _optimizer(
    name: str, parameters: list[tuple[list[nn.Parameter], dict[str, Any]]], extra: dict[str, Any]
) -> torch.optim.Optimizer:
    """One optimizer with a group for each combination of settings, device and type of parameters."""
    options: dict[str, Any] = {"fused": True} if name == "sgd" else {}
    groups: dict[Any, dict[nn.Parameter, None]] = {}
    for trained, settings in parameters:
        for parameter in trained:
            groups.setdefault((*settings.items(), parameter.device, parameter.dtype), {})[parameter] = None
    try:
        return _optimizer_class(name, groups)(
            [{"params": list(trained), **dict(settings)} for (*settings, _, _), trained in groups.items()],
            **options,
            **extra,
        )
    except TypeError as error:
        raise UserError(f"method.update: {error}") from error


def _optimizer_class(name: str, groups: Mapping[Any, Iterable[nn.Parameter]]) -> Callable[..., torch.optim.Optimizer]:
    if name != EIGHT_BIT:
        return OPTIMIZERS[name]
    try:
        found: Callable[..., torch.optim.Optimizer] = importlib.import_module("bitsandbytes.optim").AdamW8bit
    except ImportError as error:
        raise UserError(f"update.name={name} needs the package 'bitsandbytes': pip install bitsandbytes") from error
    if any(parameter.device.type == "cpu" for parameter in chain.from_iterable(groups.values())):
        raise UserError(f"update.name={name} needs a GPU, such as device=cuda; these weights are on the processor")
    return found
