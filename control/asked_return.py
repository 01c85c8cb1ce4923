"""The return that a policy is asked for, as a column of what it observes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from unirl.control.data.transitions import Floats, Transitions, episode_bounds
from unirl.control.envs import Array, Env
from unirl.errors import UserError, unknown

FORMS = ("return_to_go", "return_per_step")


@dataclass
class AskedReturn:
    """What is asked for: `form` `return_to_go`, or `return_per_step`, a mean reward (see `ShowAskedReturn`).

    `target`: the return of an episode (None: the largest recorded one, filled in when the data is loaded).
    """

    form: str
    target: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "AskedReturn | None":
        """From a method's `policy` section, `{condition: ..., target_return: ...}`; None where it has no condition.

        Raises `UserError` for an unknown condition.
        """
        form, target = options.get("condition"), options.get("target_return")
        if form is None:
            return None
        if form not in FORMS:
            raise unknown("condition of a policy", str(form), FORMS)
        return cls(str(form), None if target is None else float(target))

    def shown(self, left: Any, steps: Any) -> Any:
        """What a policy sees where `left` of the return and `steps` of the episode remain (numbers or arrays)."""
        return left / np.maximum(steps, 1) if self.form == "return_per_step" else left

    def wanted(self) -> float:
        """The target; raises `UserError` where there is none yet."""
        if self.target is None:
            raise UserError(
                "a policy that is asked for a return needs one: method.policy.target_return=R, or recorded data, whose "
                "largest return is then asked for"
            )
        return self.target


class ShowAskedReturn(gym.Wrapper[Any, Any, Any, Any]):
    r"""An environment that shows, as one more number, the return R that is asked for.

    .. math:: R - \sum_{t' < t} r_{t'}, \quad \text{or always } R / H \text{ (return_per_step)}

    H is the environment's time limit. The second is the authors' evaluation of RvS-R: what is left, divided by the
    steps that remain, would leave the recorded range near the end of an episode.
    """

    def __init__(self, env: Env, asked: AskedReturn) -> None:
        super().__init__(env)
        assert env.spec is not None and env.spec.max_episode_steps is not None
        box: Any = env.observation_space
        low, high = np.append(box.low, -np.inf), np.append(box.high, np.inf)
        self.observation_space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.asked, self.horizon = asked, env.spec.max_episode_steps
        self.shown = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Ask for the whole target."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.shown = float(self.asked.shown(self.asked.wanted(), self.horizon))
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take off what has been paid, where a return to go is shown."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.asked.form == "return_to_go":
            self.shown -= float(reward)
        return self._seen(observation), float(reward), terminated, truncated, info

    def _seen(self, observation: Array) -> Array:
        return np.append(observation, self.shown).astype(np.float32)


def with_returns(data: Transitions, form: str, horizon: int) -> Transitions:
    r"""The data with what was still to come as the last column of observations and next observations, [M, O + 1].

    .. math:: \hat R_t = \sum_{t' \geq t} r_{t'}, \quad \text{or } \hat R_t / (H - t) \text{ (return_per_step)}

    Nothing is discounted; `horizon` is H. Sources: Chen et al. 2021 (Decision Transformer); Emmons et al. 2022 (RvS-R).
    """
    starts, lengths = episode_bounds(data.terminals, data.timeouts)
    asked, to_go = AskedReturn(form), to_go_of_states(data.rewards, starts, lengths)
    before = np.arange(len(data)) + np.repeat(np.arange(len(starts)), lengths)  # number of each row's state
    remaining = horizon - (np.arange(len(data)) - np.repeat(starts, lengths))

    def joined(values: Floats, state: Array, steps: Array) -> Floats:
        column: Floats = np.asarray(asked.shown(to_go[state], steps), dtype=np.float32)
        return np.concatenate([values, column[:, None]], axis=1)

    return replace(
        data,
        observations=joined(data.observations, before, remaining),
        next_observations=joined(data.next_observations, before + 1, remaining - 1),
    )


def to_go_of_states(rewards: Floats, starts: Array, lengths: Array) -> Array:
    """Undiscounted return to go of all states, 0 in an episode's last one, which is included: [M + E], float64."""
    total = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    ends = starts + lengths
    of_rows = np.repeat(total[ends], lengths) - total[:-1]
    return np.insert(of_rows, ends, 0.0)
