"""Saving and restoring an environment so that the same actions give bit-identical observations and rewards."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

_NUMBER = (bool, int, float, str, type(None), np.generic, np.ndarray)
_CONSTANT = (gym.Space, gym.envs.registration.EnvSpec)
_NOT_STATE = frozenset({"env", "spec", "metadata", "_cached_spec", "_saved_kwargs", "_metadata", "_np_random"})
_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
# What MuJoCo derives from the integration state one step late: an environment reads it (position before the step,
# contact forces) before the next step computes it anew.
_DERIVED = (
    *(
        "xpos",
        "xquat",
        "xmat",
        "xipos",
        "ximat",
        "xanchor",
        "xaxis",
        "geom_xpos",
        "geom_xmat",
        "site_xpos",
        "site_xmat",
    ),
    *("subtree_com", "subtree_linvel", "cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "sensordata"),
    *("qacc", "qfrc_actuator", "qfrc_constraint", "actuator_force", "actuator_length", "actuator_velocity"),
)


@dataclass(frozen=True)
class Snapshot:
    """The state of one environment.

    `attributes`: per wrapper (outermost first), every attribute that is a number, an array or a container of those:
    elapsed steps, a classic-control `state`, a goal; but none that its class lists in `constants`, names of what every
    environment made alike has in common. `physics`: MuJoCo's integration state (positions, velocities,
    activations, time, controls, warm start) and the derived arrays. `generator`: the state of `np_random`.
    `copied`: a deep copy of the whole environment where its state cannot be told apart like this (Box2D, for
    example); such a snapshot serves within a run but cannot be written to a file.
    """

    attributes: list[dict[str, Any]]
    physics: dict[str, Any] | None
    generator: Mapping[str, Any] | None
    copied: gym.Env[Any, Any] | None = None

    def state_dict(self) -> dict[str, Any] | None:
        """Arrays and JSON values, or None where only a deep copy holds the state."""
        if self.copied is not None:
            return None
        encoded = [{name: _encode(value) for name, value in layer.items()} for layer in self.attributes]
        return {"attributes": encoded, "physics": self.physics, "generator": self.generator}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Snapshot":
        """The snapshot whose `state_dict` this was."""
        decoded = [{name: _decode(value) for name, value in layer.items()} for layer in state["attributes"]]
        physics = state["physics"]
        arrays = None if physics is None else {name: np.asarray(value) for name, value in physics.items()}
        return cls(decoded, arrays, state["generator"])


def snapshot(env: gym.Env[Any, Any]) -> Snapshot:
    """The present state of an environment that has been reset."""
    world = env.unwrapped
    physics = _physics(world)
    if physics is None and not all(_understood(world, name, value) for name, value in vars(world).items()):
        return Snapshot([], None, None, copy.deepcopy(env))
    attributes = [
        {name: copy.deepcopy(value) for name, value in vars(layer).items() if _is_state(layer, name) and _plain(value)}
        for layer in _layers(env)
    ]
    rng = world._np_random
    return Snapshot(attributes, physics, None if rng is None else copy.deepcopy(rng.bit_generator.state))


def restore(env: gym.Env[Any, Any], saved: Snapshot) -> gym.Env[Any, Any]:
    """Bring an environment of the same kind to a saved state; returns the environment to use from now on."""
    if saved.copied is not None:
        return copy.deepcopy(saved.copied)
    for layer, values in zip(_layers(env), saved.attributes, strict=True):
        for name, value in values.items():
            setattr(layer, name, copy.deepcopy(value))
    world = env.unwrapped
    if saved.generator is not None:
        world.np_random.bit_generator.state = saved.generator
    if saved.physics is not None:
        _restore_physics(world, saved.physics)
    return env


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    layer = env
    while isinstance(layer, gym.Wrapper):
        yield layer
        layer = layer.env
    yield layer


def _physics(world: gym.Env[Any, Any]) -> dict[str, Any] | None:
    data = getattr(world, "data", None)
    if not isinstance(data, mujoco.MjData):
        return None
    model = world.get_wrapper_attr("model")
    state = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
    mujoco.mj_getState(model, data, state, _INTEGRATION)
    return {"integration": state} | {name: np.array(getattr(data, name)) for name in _DERIVED}


def _restore_physics(world: gym.Env[Any, Any], physics: Mapping[str, Any]) -> None:
    model, data = world.get_wrapper_attr("model"), world.get_wrapper_attr("data")
    mujoco.mj_setState(model, data, np.asarray(physics["integration"], dtype=np.float64), _INTEGRATION)
    for name in _DERIVED:
        getattr(data, name)[...] = physics[name]


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, _NUMBER)


def _is_state(layer: gym.Env[Any, Any], name: str) -> bool:
    return name not in _NOT_STATE and name not in getattr(type(layer), "constants", ())


def _understood(world: gym.Env[Any, Any], name: str, value: Any) -> bool:
    return not _is_state(world, name) or _plain(value) or isinstance(value, _CONSTANT)


def _encode(value: Any) -> Any:
    """JSON values and arrays, with what JSON would lose (tuples, numpy scalars) marked."""
    if isinstance(value, np.generic):
        return {"scalar": np.atleast_1d(np.asarray(value))}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return np.asarray(value) if hasattr(value, "__array__") else value
    (kind, inner), *_ = value.items()
    if kind == "scalar":
        return np.asarray(inner)[0]
    if kind == "dict":
        return {key: _decode(item) for key, item in inner.items()}
    items = [_decode(item) for item in inner]
    return tuple(items) if kind == "tuple" else items
