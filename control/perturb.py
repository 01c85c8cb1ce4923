"""A MuJoCo world with other physics: gravity, friction, masses, joints, actuators, noise, by name."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from unirl.errors import UserError, unknown
from unirl.perturbation import flattened

Env = gym.Env[Any, Any]
Array = NDArray[Any]

# quantity -> (what carries it, the model's arrays that a factor multiplies)
SCALED: dict[str, tuple[str, tuple[str, ...]]] = {
    "mass": ("body", ("body_mass", "body_inertia")),
    "friction": ("geom", ("geom_friction",)),
    "damping": ("joint", ("dof_damping",)),
    "strength": ("actuator", ("actuator_gear",)),
}
NOISE = ("actuator_noise", "joint_noise")
QUANTITIES = ("gravity", "gravity.absolute", *SCALED, *NOISE)
_OBJECTS = {
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "joint": mujoco.mjtObj.mjOBJ_JOINT,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
}
_PLURALS = {"body": "bodies"}


def perturbed(env: Env, perturb: Mapping[str, Any] | None) -> Env:
    r"""The environment with its model changed, in place, and with noise around it where that is asked for.

    Factors on what the model says (1 changes nothing):

    - `gravity`; or `gravity.absolute`, its magnitude in m/s² (downwards where the model has none);
    - `friction` of all contacts, or `friction.GEOM` of one geom (a contact takes the larger of its two geoms');
    - `mass` of all bodies, or `mass.BODY` of one: inertia changes alike, density that is;
    - `damping` of all joints, or `damping.JOINT` of one;
    - `strength` of all actuators, or `strength.ACTUATOR` of one: the force per control.

    Standard deviations of Gaussian noise, drawn anew for each decision from the environment's own generator:

    - `actuator_noise`, added to every action, in units of the action's half-range, then clipped to the bounds;
    - `joint_noise`, a force (N) or torque (N m) on every joint that an actuator drives.

    A factor for all and one for a name multiply. What is changed lies in the model, which resets and snapshots leave
    alone, so a world made from the same `perturb` continues a snapshot bit for bit. Raises `UserError` for a quantity
    that does not exist, a name that the model lacks (with those it has), a value that is no number or negative, and
    for an environment without a MuJoCo model. Factors on gravity, friction and noise on the actuators are those of
    H2O [175].
    """
    values = flattened(perturb or {})
    if not values:
        return env
    world: Any = env.unwrapped
    model = getattr(world, "model", None)
    if not isinstance(model, mujoco.MjModel):
        name = env.spec.id if env.spec is not None else type(world).__name__
        raise UserError(f"perturb changes MuJoCo models; {name} has none")
    for name in sorted(values, key=_absolute_first):
        _apply(model, name, _checked(name, values[name]))
    mujoco.mj_setConst(model, world.data)  # what MuJoCo derives from masses and inertias
    return Noisy(env, *(float(values.get(name, 0.0)) for name in NOISE)) if set(values) & set(NOISE) else env


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """Gaussian noise on the actions (in units of their half-range) and on the joints that actuators drive (N, N m).

    The draws come from the environment's own generator: seeds and snapshots hold for them as well.
    """

    def __init__(self, env: Env, actuator_std: float, joint_std: float) -> None:
        super().__init__(env)
        self.actuator_std, self.joint_std = actuator_std, joint_std
        model: Any = env.unwrapped.model  # type: ignore[attr-defined]
        driven = model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0]
        self.dofs = np.flatnonzero(np.isin(model.dof_jntid, driven))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step with the noise of this decision."""
        world: Any = self.env.unwrapped
        if self.actuator_std > 0:
            space: Any = self.env.action_space
            noise = world.np_random.normal(0.0, self.actuator_std, space.shape) * (space.high - space.low) / 2
            action = np.clip(action + noise, space.low, space.high).astype(space.dtype)
        if self.joint_std > 0:
            world.data.qfrc_applied[self.dofs] = world.np_random.normal(0.0, self.joint_std, len(self.dofs))
        return self.env.step(action)


def _absolute_first(name: str) -> tuple[bool, str]:
    return (name != "gravity.absolute", name)


def _checked(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
        raise UserError(f"perturb.{name} is {value!r}; give a number that is not negative")
    if value == 0 and name.partition(".")[0] == "mass":
        raise UserError(f"perturb.{name} is 0; a mass must be positive")
    return float(value)


def _apply(model: Any, name: str, value: float) -> None:
    quantity, _, carrier = name.partition(".")
    if name == "gravity.absolute":
        size = float(np.linalg.norm(model.opt.gravity))
        model.opt.gravity[:] = model.opt.gravity * (value / size) if size > 0 else (0.0, 0.0, -value)
    elif name == "gravity":
        model.opt.gravity[:] *= value
    elif quantity in SCALED:
        kind, arrays = SCALED[quantity]
        rows = _rows(model, kind, carrier, name) if carrier else slice(None)
        for array in arrays:
            getattr(model, array)[rows] *= value
        if name == "friction":
            model.pair_friction[:] *= value
    elif name not in NOISE:
        raise unknown("quantity of perturb", name, QUANTITIES)


def _rows(model: Any, kind: str, carrier: str, name: str) -> Array:
    """Rows of the model's arrays that belong to what is called `carrier`; a joint has one per degree of freedom."""
    index = mujoco.mj_name2id(model, _OBJECTS[kind], carrier)
    if index < _first(kind):
        raise _no_such(carrier, name, kind, _names(model, kind))
    return np.flatnonzero(model.dof_jntid == index) if kind == "joint" else np.array([index])


def _names(model: Any, kind: str) -> list[str]:
    count = {"body": model.nbody, "geom": model.ngeom, "joint": model.njnt, "actuator": model.nu}[kind]
    return [found for i in range(_first(kind), count) if (found := mujoco.mj_id2name(model, _OBJECTS[kind], i))]


def _first(kind: str) -> int:
    return int(kind == "body")  # body 0 is the world, which has no mass


def _no_such(carrier: str, name: str, kind: str, known: Iterable[str]) -> UserError:
    names = list(known)
    near = get_close_matches(carrier, names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    listed = ", ".join(names) if names else "none that has a name"
    plural = _PLURALS.get(kind, f"{kind}s")
    return UserError(f"perturb.{name}: the model has no {kind} '{carrier}'{hint}; its {plural}: {listed}")
