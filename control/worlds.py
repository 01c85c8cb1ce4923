"""The environments of a domain: where roll-outs happen and policies are judged, and what is carried between calls."""

import warnings
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from unirl.batch import Batch
from unirl.control.acting import Actor
from unirl.control.asked_return import AskedReturn, ShowAskedReturn
from unirl.control.envs import ActionSpace, Array, Env, Envs, make_env, simulator_of
from unirl.control.normalize import ObservationNormalizer, RewardScaler
from unirl.control.rollout import Recorder, as_batch, play_episodes, play_segment, row_scores
from unirl.control.sections import check_sections, reference_score, section
from unirl.errors import RunWarning, UserError
from unirl.perturbation import flattened

EVALUATION_STREAM = 1  # second word of the seed sequence of evaluation resets; training environments use 2
_TRAINING_STREAM = 2
_SEEDS = 2**31 - 1  # how many reset seeds there are


class Worlds:
    """Copies of one gymnasium environment, what policies see of it, and where its running episodes stand.

    Roll-outs happen in `task.simulator` where there is one, evaluations always in the task's own world. `count`:
    environments stepped together by segment roll-outs; `parallel`: whole episodes played at a time; `start_states`:
    episodes start from this many recurring reset states (None: always new ones); `discount`: of the return whose
    variance scales rewards. Batches are made on `device`.

    Raises `UserError` for an unknown environment, an unsupported action space, a simulator that does not fit and
    sections of the task that are no mappings, even those that only a dataset or an evaluation reads.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        seed: int,
        device: torch.device,
        count: int,
        parallel: int,
        start_states: int | None,
        discount: float,
    ) -> None:
        if count < 1 or parallel < 1:
            raise UserError(f"domain.envs and domain.parallel_episodes must be at least 1, got {count}, {parallel}")
        check_sections(task)
        self._reference = reference_score(task)
        self.task, self.seed, self.device = task, seed, device
        self.count, self.parallel, self.start_states = count, parallel, start_states
        template = make_env(task)
        self._simulator = simulator_of(task, template)
        self.actions = ActionSpace(template.action_space)
        assert template.observation_space.shape is not None
        self._plain_size = int(template.observation_space.shape[0])
        template.close()
        self.rng = np.random.default_rng(seed)
        self.scaler = RewardScaler(False, discount)
        self._normal: Array | None = None  # normalised observations where segment roll-outs continue
        self._returns = np.zeros((2, count))  # raw and discounted return of each running episode
        self.show(None, running=False)

    def show(self, asked: AskedReturn | None, running: bool) -> None:
        """What policies see: with a column for the return they are asked for, normalised by running statistics."""
        self.asked = asked
        self.observation_size = self._plain_size + (asked is not None)
        self.normalizer = ObservationNormalizer(self.observation_size, "running" if running else "off")

    def segment(self, n: int, act: Actor) -> Batch:
        """`n` decisions over all environments, [count, n / count], continuing the episodes of the last call."""
        count = self.count
        if n < count or n % count:
            raise UserError(f"a roll-out of {n} decisions cannot be divided over {count} environments (domain.envs)")
        if self._normal is None:
            for index, seed in enumerate(self.stream(_TRAINING_STREAM, count)):
                self._envs.reset(index, seed)
            self._normal = self.normalizer.observe(self._envs.observation.copy())
        tables, self._normal = play_segment(
            self._envs, n // count, self.actions, act, self.normalizer.observe, self._normal
        )
        ended = tables["terminated"] | tables["truncated"]
        scores, self._returns[0] = row_scores(tables["reward"], ended, self._returns[0])
        self._returns[1] = self._scale_rewards(tables, ended, self._returns[1])
        rows = np.arange(count)
        return as_batch(tables, self.device, score=scores, group=rows, prompt_id=rows, source=np.zeros_like(rows))

    def episodes(self, n: int, group_size: int, act: Actor, source: Array) -> Batch:
        """`n` whole episodes in groups of `group_size` from the same state; `source` [n] marks who plays them."""
        seeds = self.rng.integers(self.start_states or _SEEDS, size=n // group_size)
        recorder, observe = Recorder(), self.normalizer.observe
        played = play_episodes(self._episode_envs, seeds.tolist(), self.actions, act, observe, recorder, group_size)
        tables = recorder.tables(n)
        ended = tables["terminated"] | tables["truncated"]
        self._scale_rewards(tables, ended, np.zeros(n))
        group = np.arange(n // group_size).repeat(group_size)
        rows = {"score": played.returns, "group": group, "prompt_id": seeds[group], "source": source}
        return as_batch(tables, self.device, **rows)

    def evaluate(self, act: Actor, episodes: int, perturb: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Whole episodes from the same reset seeds every time; see `ControlDomain.evaluate`."""
        if episodes < 1:
            raise UserError(f"evaluation needs at least 1 episode, got {episodes}")
        envs = self._evaluation_envs if perturb is None else self._copies(self._changed(perturb), self.parallel)
        seeds = self.stream(EVALUATION_STREAM, episodes)
        played = play_episodes(envs, seeds, self.actions, act, self.normalizer)
        result = {
            "score": float(played.returns.mean()),
            "score_std": float(played.returns.std()),
            "length": float(played.lengths.mean()),
        }
        if played.costs is not None:
            result["cost"] = float(played.costs.mean())
        normalized = _normalized_score(self.task, self._reference, result["score"])
        return result if normalized is None else result | {"normalized_score": normalized}

    def stream(self, stream: int, count: int) -> list[int]:
        """Reset seeds that depend on the domain's seed alone; the first ones do not depend on how many are drawn."""
        return [int(word) for word in np.random.SeedSequence([self.seed, stream]).generate_state(count)]

    def state_dict(self) -> dict[str, Any]:
        """Generator, statistics, running episodes, as arrays and JSON values."""
        return {
            "rng": self.rng.bit_generator.state,
            "normalizer": self.normalizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "asked_return": None if self.asked is None else self.asked.target,
            "returns": self._returns.copy(),
            "normal": None if self._normal is None else self._normal.copy(),
            "envs": None if self._normal is None else self._envs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit.

        An environment whose state only a deep copy can hold (see `unirl.control.snapshot`) starts a new episode, with
        a `RunWarning`.
        """
        self.rng.bit_generator.state = dict(state["rng"])
        self.normalizer.load_state_dict(state["normalizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.asked is not None:
            self.asked.target = state["asked_return"]
        self._returns = np.array(state["returns"])
        self._normal = None
        if state["envs"] is not None:
            self._normal = np.array(state["normal"])
            anew = self._envs.load_state_dict(state["envs"])
            if anew:
                warnings.warn(
                    RunWarning(
                        f"the state of {self.task['env']} cannot be written to a file: {len(anew)} running episode(s) "
                        "start again, so the resumed run differs from an uninterrupted one"
                    ),
                    stacklevel=2,
                )
            for index in anew:
                self._envs.reset(index, int(self.rng.integers(_SEEDS)))
                self._normal[index] = self.normalizer(self._envs.observation[index])
                self._returns[:, index] = 0.0

    def _scale_rewards(self, tables: dict[str, Array], ended: Array, carry: Array) -> Array:
        """Scale `reward` in place where that is on, keeping `raw_reward`; returns the carried discounted returns."""
        if self.scaler.enabled:
            tables["raw_reward"] = tables["reward"]
        tables["reward"], carry = self.scaler(tables["reward"], ended, tables["mask"], carry)
        return carry

    def _changed(self, perturb: Mapping[str, Any]) -> dict[str, Any]:
        """The task with its physics changed, above what `task.perturb` says."""
        own = flattened(section(self.task, "perturb"))
        return {**self.task, "perturb": {**own, **flattened(perturb)}}

    def _copies(self, task: Mapping[str, Any], count: int) -> Envs:
        return Envs(partial(self._make, task), count, self.observation_size)

    def _make(self, task: Mapping[str, Any]) -> Env:
        env = make_env(task)
        return env if self.asked is None else ShowAskedReturn(env, self.asked)

    @cached_property
    def _envs(self) -> Envs:
        return self._copies(self._simulator, self.count)

    @cached_property
    def _episode_envs(self) -> Envs:
        return self._copies(self._simulator, self.parallel)

    @cached_property
    def _evaluation_envs(self) -> Envs:
        return self._copies(self.task, self.parallel)


def _normalized_score(task: Mapping[str, Any], reference: tuple[float, float] | None, value: float) -> float | None:
    """A return in percent between the task's own reference scores, else between D4RL's, where it has any."""
    if reference is None:
        from unirl.control.data.scores import normalized_score

        return normalized_score(str(task["env"]), value)
    random, expert = reference
    return 100.0 * (value - random) / (expert - random)
