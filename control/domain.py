"""The control domain: gymnasium environments, MLP policies and critics behind `unirl.domain.Domain`."""

from collections.abc import Collection, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unirl.batch import Batch
from unirl.control.acting import Actor, ModeActor, PolicyActor, UniformActor
from unirl.control.critics import dropping_layers, q_network, value_network
from unirl.control.envs import ActionSpace, Array, Envs, make_env
from unirl.control.few_rows import FEW, FewRowsActor, can_act_on_few_rows
from unirl.control.followers import copied, frozen_copy, move
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.normalize import ObservationNormalizer, RewardScaler
from unirl.control.policies import make_policy, policy_kind
from unirl.control.rollout import Recorder, as_batch, play_episodes, play_segment, row_scores
from unirl.control.score import score
from unirl.domain import Dataset, DomainInfo, Opponent, Requirements
from unirl.errors import UserError, unknown
from unirl.processors import native_bfloat16
from unirl.registry import make

_EVALUATION_STREAM = 1  # second word of the seed sequence of evaluation resets; training environments use 2
_TRAINING_STREAM = 2
PRECISIONS = ("auto", "float32", "bfloat16")
_SEEDS = 2**31 - 1  # how many reset seeds there are


class ControlDomain:
    """Trains and evaluates a policy in one gymnasium environment.

    `task`: the environment (`env`, `env_kwargs`), its data and its reference scores, see `configs/task/`.
    `model`: the networks (`policy`, `hidden`, `activation`, `critic_hidden`, ...), see `configs/model/mlp.yaml`.
    `envs`: environments stepped together by segment roll-outs. `parallel_episodes`: whole episodes played at a time.
    `normalize_observation`, `normalize_reward`: running normalisation; None means on for methods that learn from each
    roll-out once, and off where observations are stored and used again (an action-value critic, a dataset, pairs).
    `reward_discount`: the discount of the return whose variance scales rewards. `start_states`: episodes start from
    this many recurring reset states (None: always new ones). `precision`: of the products of all layers but the last;
    `auto` is bfloat16 for methods with an action-value critic on processors that multiply it themselves, otherwise
    float32.

    Policies act in normalised actions ([-1, 1] are the environment's bounds). `inputs` of its batches hold
    `observation`, `action`, `next_observation` and, for squashed policies, `raw_action`.

    Raises `UserError` for an unknown environment, an unsupported action space or a policy that does not fit it.
    """

    policy: nn.Module
    info: DomainInfo

    def __init__(
        self,
        task: Mapping[str, Any],
        model: Mapping[str, Any],
        seed: int = 0,
        device: str = "cpu",
        envs: int = 1,
        parallel_episodes: int = 16,
        normalize_observation: bool | None = None,
        normalize_reward: bool | None = None,
        reward_discount: float = 0.99,
        start_states: int | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("domain.precision", str(precision), PRECISIONS)
        if envs < 1 or parallel_episodes < 1:
            raise UserError(
                f"domain.envs and domain.parallel_episodes must be at least 1, got {envs}, {parallel_episodes}"
            )
        self.task, self.model, self.seed, self.device = task, model, seed, torch.device(device)
        self.requirements, self.precision = Requirements(), precision
        self._env_count, self._parallel, self._start_states = envs, parallel_episodes, start_states
        self._wants = (normalize_observation, normalize_reward)
        template = make_env(task)
        self.actions = ActionSpace(template.action_space)
        assert template.observation_space.shape is not None
        self.observation_size = int(template.observation_space.shape[0])
        template.close()
        self.info = DomainInfo(
            name="control",
            task=str(task["env"]),
            independent_decisions=True,
            target_entropy=self.actions.target_entropy,
            sample_unit="environment steps",
        )
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.observation_normalizer = ObservationNormalizer(self.observation_size, "off")
        self.reward_scaler = RewardScaler(False, reward_discount)
        self._normal: Array | None = None  # normalised observations where segment roll-outs continue
        self._returns = np.zeros((2, envs))  # raw and discounted return of each running episode
        self.build(self.requirements)

    # Networks

    def build(self, requirements: Requirements) -> None:
        """Make the policy the method is defined for, its critics, targets and anchors, from the domain's seed."""
        self.requirements = requirements
        stored = requirements.q is not None
        observation, reward = self._wants
        self.observation_normalizer.mode = "running" if (not stored if observation is None else observation) else "off"
        self.reward_scaler.enabled = not stored if reward is None else reward
        self.policy_kind = policy_kind(self.model.get("policy", "auto"), requirements.policy, self.actions, stored)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._build_networks(requirements)
        self.anchors = {name: frozen_copy(self.policy) for name in sorted(requirements.anchors)}
        self.teachers = {name: self._teacher(file) for name, file in requirements.given.items()}
        self.dropping = [layer for network in self._networks().values() for layer in dropping_layers(network)]

    def _teacher(self, file: str) -> nn.Module:
        from unirl.control.teacher import Teacher

        if self.observation_normalizer.mode != "off":
            raise UserError(f"{file} sees raw observations; set domain.normalize_observation=false")
        return Teacher(file, self.observation_size, self.actions).to(self.device)

    def anchor(self, name: str) -> nn.Module:
        """A frozen policy: a copy of the run's own, or a teacher from a file."""
        found = self.anchors.get(name) or self.teachers.get(name)
        if found is None:
            known = sorted([*self.anchors, *self.teachers])
            raise ValueError(f"anchor '{name}' was not built; the method's anchors are {known}")
        return found

    def _build_networks(self, requirements: Requirements) -> None:
        size, model = self.observation_size, {**self.model, "half": self._half_precision(requirements)}
        policy = make_policy(self.policy_kind, size, self.actions, model, requirements.policy_options)
        self.policy = policy.to(self.device)
        self.value = self.target_value = self.q = self.target_q = self.target_policy = None
        if requirements.value is not None:
            self.value = value_network(requirements.value, size, model).to(self.device)
            self.target_value = frozen_copy(self.value) if requirements.value.tau is not None else None
        if requirements.q is not None:
            critic = q_network(requirements.q, size, self.actions.size, self.actions.discrete, model)
            self.q = critic.to(self.device)
            self.target_q = frozen_copy(self.q)
            if requirements.q.target_policy:
                self.target_policy = frozen_copy(self.policy)
        self.models = {name: self._auxiliary(name, options) for name, options in sorted(requirements.models.items())}

    def _auxiliary(self, name: str, options: Mapping[str, Any]) -> AuxiliaryModel:
        made: AuxiliaryModel = make("model", name, **options)
        made.build(self)
        return made.to(self.device)

    def _half_precision(self, requirements: Requirements) -> bool:
        """Whether layers multiply in bfloat16; `auto`: where an action-value critic makes the work and it is fast."""
        if self.precision == "auto":
            return requirements.q is not None and self.device.type == "cpu" and native_bfloat16() is True
        return self.precision == "bfloat16"

    @property
    def clips_actions(self) -> bool:
        """Whether the policy's actions may lie outside the bounds that the environment clips them to."""
        return self.policy_kind in ("gaussian", "bounded_gaussian") and self.actions.bounded

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Trainable parameters of `policy`, `value`, `q` or an auxiliary model; none for a role it does not hold."""
        network = {"policy": self.policy, "value": self.value, "q": self.q, **self.models}.get(role)
        return [] if network is None else list(network.parameters())

    def copy_policy(self, anchor: str, decay: float = 0.0) -> None:
        """Set anchor <- decay * anchor + (1 - decay) * policy."""
        move(self.anchor(anchor), self.policy, 1.0 - decay)

    def update_targets(self) -> None:
        """Set target <- (1 - tau) * target + tau * network, for the critics and the target policy."""
        state = self.requirements.value
        if self.value is not None and self.target_value is not None and state is not None and state.tau is not None:
            move(self.target_value, self.value, state.tau)
        if self.requirements.q is None or self.q is None or self.target_q is None:
            return
        move(self.target_q, self.q, self.requirements.q.tau)
        if self.target_policy is not None:
            move(self.target_policy, self.policy, self.requirements.q.tau)

    # Experience

    def rollout(
        self,
        n: int,
        *,
        group_size: int = 1,
        unit: str = "episode",
        opponent: Opponent | None = None,
        uniform: bool = False,
    ) -> Batch:
        """Sample with the current policy, or with `uniform` uniformly random actions.

        `unit="segment"`: `n` decisions over all environments, rows [envs, n / envs], continuing the episodes of the
        last call; `score` is the mean raw return of the episodes that ended in a row (where none did, the return so
        far). `unit="episode"`: `n` whole episodes in groups of `group_size` from the same state; `score` is the raw
        return, `prompt_id` the reset seed, and `source` 1 marks the rows of the opponent. Where rewards are scaled, the
        raw ones are in `rewards["raw"]`. Raises `UserError` for counts that do not divide.
        """
        if unit == "segment":
            return self._segment(n, uniform)
        if unit == "episode":
            return self._episodes(n, group_size, opponent, uniform)
        raise UserError(f"source.unit '{unit}' does not exist in control: episode or segment")

    def _segment(self, n: int, uniform: bool) -> Batch:
        count = self._env_count
        if n < count or n % count:
            raise UserError(f"a roll-out of {n} decisions cannot be divided over {count} environments (domain.envs)")
        if self._normal is None:
            for index, seed in enumerate(self._stream(_TRAINING_STREAM, count)):
                self._envs.reset(index, seed)
            self._normal = self.observation_normalizer.observe(self._envs.observation.copy())
        actor = self._actor(None, None, uniform)
        tables, self._normal = play_segment(
            self._envs, n // count, self.actions, actor, self.observation_normalizer.observe, self._normal
        )
        ended = tables["terminated"] | tables["truncated"]
        scores, self._returns[0] = row_scores(tables["reward"], ended, self._returns[0])
        self._returns[1] = self._scale_rewards(tables, ended, self._returns[1])
        rows = np.arange(count)
        return as_batch(tables, self.device, score=scores, group=rows, prompt_id=rows, source=np.zeros_like(rows))

    def _episodes(self, n: int, group_size: int, opponent: Opponent | None, uniform: bool) -> Batch:
        if n < 1 or group_size < 1 or n % group_size:
            raise UserError(
                f"{n} episodes cannot be divided into groups of {group_size} (source.rows, source.group_size)"
            )
        place = np.arange(n) % group_size
        facing = place >= group_size - (0 if opponent is None else opponent.per_group)
        actor = self._actor(facing, opponent, uniform)
        seeds = self.rng.integers(self._start_states or _SEEDS, size=n // group_size)
        recorder, observe = Recorder(), self.observation_normalizer.observe
        played = play_episodes(self._episode_envs, seeds.tolist(), self.actions, actor, observe, recorder, group_size)
        tables = recorder.tables(n)
        ended = tables["terminated"] | tables["truncated"]
        self._scale_rewards(tables, ended, np.zeros(n))
        group = np.arange(n // group_size).repeat(group_size)
        return as_batch(
            tables,
            self.device,
            score=played.returns,
            group=group,
            prompt_id=seeds[group],
            source=facing.astype(np.int64),
        )

    def _scale_rewards(self, tables: dict[str, Array], ended: Array, carry: Array) -> Array:
        """Scale `reward` in place where that is on, keeping `raw_reward`; returns the carried discounted returns."""
        if self.reward_scaler.enabled:
            tables["raw_reward"] = tables["reward"]
        tables["reward"], carry = self.reward_scaler(tables["reward"], ended, tables["mask"], carry)
        return carry

    def _actor(self, facing: Array | None, opponent: Opponent | None, uniform: bool) -> Actor:
        if uniform:
            return UniformActor(self.actions, self.rng, squashed=self.policy_kind == "tanh_gaussian")
        if opponent is None and facing is None and self._env_count <= FEW and can_act_on_few_rows(self.policy):
            return FewRowsActor(self.policy, self.rng)
        if opponent is None:
            return PolicyActor(self.policy, self.generator, self.device)
        anchor = self.anchor(opponent.anchor)
        return PolicyActor(self.policy, self.generator, self.device, anchor, opponent.mixture, facing)

    def score(self, batch: Batch, need: Collection[str]) -> Batch:
        """Add the fields that `need` names, see `unirl.control.score`."""
        return score(self, batch, need)

    def microbatches(self, batch: Batch) -> list[Batch]:
        """The batch itself: vectors of numbers always fit in memory."""
        return [batch]

    def dataset(self, options: Mapping[str, Any]) -> Dataset:
        """The task's recorded data (`task.data`), presented as `options` and, above them, `task.data_options` say.

        Observation statistics are off or those the dataset fixes.
        """
        from unirl.control.data.dataset import load_dataset

        self._stored_observations()
        presented = {**options, **(self.task.get("data_options") or {})}
        return load_dataset({**self.task, "data_options": presented}, seed=self.seed, domain=self)

    def preferences(self) -> Dataset:
        """Pairs of segments with an annotator's labels (`task.preferences`), see `unirl.control.segments`."""
        from unirl.control.segments import preference_pairs

        self._stored_observations()
        return preference_pairs(self)

    def set_observation_statistics(self, mean: Array, std: Array) -> None:
        """Normalise what the policy sees by these statistics of a dataset, [O] each, from now on."""
        self.observation_normalizer.fix(mean, std)

    # Evaluation

    def evaluate(self, episodes: int, sampled: bool = False) -> dict[str, float]:
        """Play whole episodes from the same reset seeds every time, with the policy's mode or (`sampled`) its samples.

        Training environments, generators and statistics are left as they are. Returns the mean raw return `score`,
        `score_std` (population), mean `length` and, where reference scores are known, `normalized_score` in percent.
        """
        if episodes < 1:
            raise UserError(f"evaluation needs at least 1 episode, got {episodes}")
        seeds = self._stream(_EVALUATION_STREAM, episodes)
        generator = torch.Generator(device=self.device).manual_seed(self.seed)
        own = PolicyActor(self.policy, generator, self.device)
        actor = own if sampled else ModeActor(self.policy, self.device)
        played = play_episodes(self._evaluation_envs, seeds, self.actions, actor, self.observation_normalizer)
        result = {
            "score": float(played.returns.mean()),
            "score_std": float(played.returns.std()),
            "length": float(played.lengths.mean()),
        }
        normalized = self._normalized_score(result["score"])
        return result if normalized is None else result | {"normalized_score": normalized}

    def act(self, observation: Array) -> Array:
        """The policy's mode in the environment's units, for raw observations [B, O]."""
        normal = self.observation_normalizer(np.asarray(observation, dtype=np.float32))
        choice = ModeActor(self.policy, self.device)(normal, np.arange(len(normal)))
        return self.actions.to_env(choice.action)

    def record_video(self, path: Path, episodes: int = 1) -> Path:
        """Film the policy's mode from the first evaluation reset; needs an environment that renders."""
        from unirl.control.data.video import record

        seed = self._stream(_EVALUATION_STREAM, 1)[0]
        return record(
            self.info.task, self.act, path, episodes=episodes, seed=seed, env_kwargs=self.task.get("env_kwargs")
        )

    def _normalized_score(self, value: float) -> float | None:
        reference: Mapping[str, float] | None = self.task.get("reference_score")
        if reference is None:
            from unirl.control.data.scores import normalized_score

            return normalized_score(self.info.task, value)
        return 100.0 * (value - reference["random"]) / (reference["expert"] - reference["random"])

    # State

    def state_dict(self) -> dict[str, Any]:
        """Networks, anchors, generators, environments and statistics, as tensors, arrays and JSON values."""
        return {
            "networks": {name: copied(network) for name, network in self._networks().items()},
            "anchors": {name: copied(anchor) for name, anchor in self.anchors.items()},
            "generator": self.generator.get_state(),
            "rng": self.rng.bit_generator.state,
            "observation_normalizer": self.observation_normalizer.state_dict(),
            "reward_scaler": self.reward_scaler.state_dict(),
            "returns": self._returns.copy(),
            "normal": None if self._normal is None else self._normal.copy(),
            "envs": None if self._normal is None else self._envs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit; call `build` with the same requirements first.

        An environment whose state only a deep copy can hold (see `unirl.control.snapshot`) starts a new episode.
        """
        for name, network in self._networks().items():
            network.load_state_dict(state["networks"][name])
        for name, anchor in self.anchors.items():
            anchor.load_state_dict(state["anchors"][name])
        self.generator.set_state(torch.as_tensor(state["generator"]).cpu())
        self.rng.bit_generator.state = dict(state["rng"])
        self.observation_normalizer.load_state_dict(state["observation_normalizer"])
        self.reward_scaler.load_state_dict(state["reward_scaler"])
        self._returns = np.array(state["returns"])
        self._normal = None
        if state["envs"] is not None:
            self._normal = np.array(state["normal"])
            for index in self._envs.load_state_dict(state["envs"]):
                self._envs.reset(index, int(self.rng.integers(_SEEDS)))
                self._normal[index] = self.observation_normalizer(self._envs.observation[index])
                self._returns[:, index] = 0.0

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take over the policy and the observation statistics of another run; anchors and targets become copies.

        Raises `UserError` where the run's policy has another shape.
        """
        try:
            self.policy.load_state_dict(state["networks"]["policy"])
        except (RuntimeError, KeyError) as error:
            raise UserError("init: the run's policy has another shape; give it the same task and model") from error
        self.observation_normalizer.load_state_dict(state["observation_normalizer"])
        for follower in (*self.anchors.values(), self.target_policy):
            if follower is not None:
                move(follower, self.policy, 1.0)

    def _networks(self) -> dict[str, nn.Module]:
        names = ("policy", "value", "target_value", "q", "target_q", "target_policy")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None} | self.models

    # Environments and actions

    @cached_property
    def _envs(self) -> Envs:
        return Envs(partial(make_env, self.task), self._env_count, self.observation_size)

    @cached_property
    def _episode_envs(self) -> Envs:
        return Envs(partial(make_env, self.task), self._parallel, self.observation_size)

    @cached_property
    def _evaluation_envs(self) -> Envs:
        return Envs(partial(make_env, self.task), self._parallel, self.observation_size)

    def _stream(self, stream: int, count: int) -> list[int]:
        """Reset seeds that depend on the domain's seed alone; the first ones do not depend on how many are drawn."""
        return [int(word) for word in np.random.SeedSequence([self.seed, stream]).generate_state(count)]

    def _stored_observations(self) -> None:
        observation, reward = self._wants
        if observation is None and self.observation_normalizer.mode == "running":
            self.observation_normalizer.mode = "off"
        if reward is None:
            self.reward_scaler.enabled = False
