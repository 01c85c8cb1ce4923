"""The control domain: gymnasium environments, MLP policies and critics behind `unirl.domain.Domain`."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unirl.batch import Batch
from unirl.control.acting import Actor, HistoryActor, ModeActor, PolicyActor, UniformActor
from unirl.control.asked_return import AskedReturn
from unirl.control.critics import dropping_layers, q_network, value_network
from unirl.control.envs import Array
from unirl.control.few_rows import FEW, FewRowsActor, can_act_on_few_rows
from unirl.control.followers import copied, frozen_copy, move
from unirl.control.greedy import GreedyPolicy
from unirl.control.history import HistoryPolicy
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.normalize import ObservationNormalizer, RewardScaler
from unirl.control.policies import SQUASHED, make_policy, policy_kind
from unirl.control.score import score
from unirl.control.worlds import EVALUATION_STREAM, Worlds
from unirl.domain import Dataset, DomainInfo, Opponent, Requirements
from unirl.errors import UserError, unknown
from unirl.processors import native_bfloat16
from unirl.registry import make

PRECISIONS = ("auto", "float32", "bfloat16")


class ControlDomain:
    """Trains and evaluates a policy in one gymnasium environment.

    `task`: the environment (`env`, `env_kwargs`, `perturb`), its data and its reference scores, see `configs/task/`.
    Roll-outs happen in `task.simulator` where there is one, evaluations always in the task's own world.
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
        precision: str = "auto",
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("domain.precision", str(precision), PRECISIONS)
        self.task, self.model, self.seed, self.device = task, model, seed, torch.device(device)
        self.requirements, self.precision = Requirements(), precision
        self._wants = (normalize_observation, normalize_reward)
        self.worlds = Worlds(task, seed, self.device, envs, parallel_episodes, start_states, reward_discount)
        self.actions = self.worlds.actions
        self.info = DomainInfo(
            name="control",
            task=str(task["env"]),
            independent_decisions=True,
            target_entropy=self.actions.target_entropy,
            sample_unit="environment steps",
        )
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.build(self.requirements)

    # Networks

    def build(self, requirements: Requirements) -> None:
        """Make the policy the method is defined for, its critics, targets and anchors, from the domain's seed."""
        if requirements.top_choices and not self.actions.discrete:
            raise UserError(f"likeliest choices (`top_logp`) need discrete actions; {self.info.task}'s are continuous")
        if requirements.densities and self.actions.discrete:
            raise UserError(f"the method needs densities of continuous actions; {self.info.task}'s actions are choices")
        self.requirements = requirements
        stored = requirements.q is not None
        observation, reward = self._wants
        running = not stored if observation is None else observation
        self.worlds.show(AskedReturn.of(requirements.policy_options), running)
        self.reward_scaler.enabled = not stored if reward is None else reward
        self.policy_kind = policy_kind(self.model.get("policy", "auto"), requirements.policy, self.actions, stored)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._build_networks(requirements)
        self.info = replace(self.info, independent_decisions=not isinstance(self.policy, HistoryPolicy))
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
        size, model = self.observation_size, {**self.model, "half": self.half_precision}
        policy = make_policy(self.policy_kind, size, self.actions, model, requirements.policy_options)
        self.policy = policy.to(self.device)
        self.value = self.target_value = self.q = self.target_q = self.target_policy = None
        if requirements.value is not None:
            self.value = value_network(requirements.value, size, model).to(self.device)
            self.target_value = frozen_copy(self.value) if requirements.value.tau is not None else None
        if requirements.q is not None:
            critic = q_network(requirements.q, size, self.actions.size, self.actions.discrete, model)
            self.q = critic.to(self.device)
            self.target_q = frozen_copy(self.q) if requirements.q.tau is not None else None
            if isinstance(self.policy, GreedyPolicy):
                self.policy.critic = self.q
            if requirements.q.target_policy:
                self.target_policy = frozen_copy(self.policy)
        self.models = {name: self._auxiliary(name, options) for name, options in sorted(requirements.models.items())}

    def _auxiliary(self, name: str, options: Mapping[str, Any]) -> AuxiliaryModel:
        made: AuxiliaryModel = make("model", name, **options)
        made.build(self)
        return made.to(self.device)

    @property
    def half_precision(self) -> bool:
        """Whether layers multiply in bfloat16; `auto`: where an action-value critic makes the work and it is fast."""
        if self.precision == "auto":
            return self.requirements.q is not None and self.device.type == "cpu" and native_bfloat16() is True
        return self.precision == "bfloat16"

    @property
    def observation_size(self) -> int:
        """How many numbers the policy sees."""
        return self.worlds.observation_size

    @property
    def observation_normalizer(self) -> ObservationNormalizer:
        """What observations pass through before the policy sees them."""
        return self.worlds.normalizer

    @property
    def reward_scaler(self) -> RewardScaler:
        """What the rewards of roll-outs pass through."""
        return self.worlds.scaler

    @property
    def asked(self) -> AskedReturn | None:
        """The return that the policy is asked for, where it is."""
        return self.worlds.asked

    @property
    def clips_actions(self) -> bool:
        """Whether the policy's actions may lie outside the bounds that the environment clips them to."""
        return self.policy_kind in ("gaussian", "bounded_gaussian") and self.actions.bounded

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Trainable parameters of `policy`, `value`, `q` or an auxiliary model; none for a role it does not hold."""
        if role == "policy" and isinstance(self.policy, GreedyPolicy):
            return []  # its weights are the critic's
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
        speed = None if self.requirements.q is None else self.requirements.q.tau
        if speed is None or self.q is None or self.target_q is None:
            return
        move(self.target_q, self.q, speed)
        if self.target_policy is not None:
            move(self.target_policy, self.policy, speed)

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
            if isinstance(self.policy, HistoryPolicy):
                raise UserError(f"policy '{self.policy_kind}' looks back on whole episodes: source.unit=episode")
            return self.worlds.segment(n, self._actor(None, None, uniform))
        if unit != "episode":
            raise UserError(f"source.unit '{unit}' does not exist in control: episode or segment")
        if n < 1 or group_size < 1 or n % group_size:
            raise UserError(
                f"{n} episodes cannot be divided into groups of {group_size} (source.rows, source.group_size)"
            )
        place = np.arange(n) % group_size
        facing = place >= group_size - (0 if opponent is None else opponent.per_group)
        actor = self._actor(facing, opponent, uniform)
        return self.worlds.episodes(n, group_size, actor, facing.astype(np.int64))

    def _actor(self, facing: Array | None, opponent: Opponent | None, uniform: bool) -> Actor:
        if uniform:
            return UniformActor(self.actions, self.worlds.rng, squashed=self.policy_kind in SQUASHED)
        if isinstance(self.policy, HistoryPolicy):
            if opponent is not None:
                raise UserError(f"policy '{self.policy_kind}' looks back; it cannot be mixed with an opponent's")
            return HistoryActor(self.policy, self.actions.size, self.device, self.generator)
        of_model = self._actor_of_model(self.generator)
        if of_model is not None and opponent is None:
            return of_model
        if opponent is None and facing is None and self.worlds.count <= FEW and can_act_on_few_rows(self.policy):
            return FewRowsActor(self.policy, self.worlds.rng)
        if opponent is None:
            return PolicyActor(self.policy, self.generator, self.device)
        anchor = self.anchor(opponent.anchor)
        return PolicyActor(self.policy, self.generator, self.device, anchor, opponent.mixture, facing)

    def _actor_of_model(self, generator: torch.Generator) -> Actor | None:
        """Who acts in the policy's place, where an auxiliary model says so."""
        actors = (model.actor(self, generator) for model in self.models.values())
        return next((actor for actor in actors if actor is not None), None)

    def score(self, batch: Batch, need: Collection[str]) -> Batch:
        """Add the fields that `need` names, see `unirl.control.score`."""
        return score(self, batch, need)

    def microbatches(self, batch: Batch) -> list[Batch]:
        """The batch itself: vectors of numbers always fit in memory."""
        return [batch]

    def dataset(self, options: Mapping[str, Any]) -> Dataset:
        """The task's recorded data (`task.data`), presented as `options` and, above them, `task.data_options` say.

        Observation statistics are off or those the dataset fixes. Auxiliary models are shown the data (`fit`). With
        `expert: true` among the options it is the expert's (`task.expert_data`), seen through the same statistics.
        """
        from unirl.control.data.dataset import DataOptions, load_dataset
        from unirl.control.data.expert import load_expert

        self.store_observations()
        context = self.policy.context if isinstance(self.policy, HistoryPolicy) else None
        asked = {"ask": None if self.asked is None else self.asked.form, "context": context}
        own = {key: value for key, value in options.items() if key != "expert"}
        DataOptions.of(own, "method.source.data")
        presented = {**own, **asked, **(self.task.get("data_options") or {})}
        if options.get("expert", False):
            return load_expert({**self.task, "data_options": presented}, self.seed, self.observation_normalizer)
        data = load_dataset({**self.task, "data_options": presented}, seed=self.seed, domain=self)
        if self.asked is not None and self.asked.target is None:
            self.asked.target = float(data.episode_returns.max())
        for model in self.models.values():
            model.fit(data)
        return data

    def preferences(self) -> Dataset:
        """Pairs of segments with an annotator's labels (`task.preferences`), see `unirl.control.segments`."""
        from unirl.control.segments import preference_pairs

        self.store_observations()
        return preference_pairs(self)

    def set_observation_statistics(self, mean: Array, std: Array) -> None:
        """Normalise what the policy sees by these statistics of a dataset, [O] each, from now on."""
        self.observation_normalizer.fix(mean, std)

    # Evaluation

    def evaluate(self, episodes: int, sampled: bool = False) -> dict[str, float]:
        """Play whole episodes from the same reset seeds every time, with the policy's mode or (`sampled`) its samples.

        Training environments, generators and statistics are left as they are. Returns the mean raw return `score`,
        `score_std` (population), mean `length`, where environments report costs an episode's mean `cost` and, where
        reference scores are known, `normalized_score` in percent.
        """
        return self.worlds.evaluate(self._judged(sampled), episodes)

    def evaluate_perturbed(self, perturb: Mapping[str, Any], episodes: int, sampled: bool = False) -> dict[str, float]:
        """The same in the task's world changed by `perturb`, above what `task.perturb` says."""
        return self.worlds.evaluate(self._judged(sampled), episodes, perturb)

    def _judged(self, sampled: bool) -> Actor:
        """Who acts in evaluations: the policy's mode or its samples, which are the same in each."""
        generator = torch.Generator(device=self.device).manual_seed(self.seed)
        of_model = self._actor_of_model(generator)
        if of_model is not None:
            return of_model
        if isinstance(self.policy, HistoryPolicy):
            return HistoryActor(self.policy, self.actions.size, self.device, generator if sampled else None)
        return PolicyActor(self.policy, generator, self.device) if sampled else ModeActor(self.policy, self.device)

    def act(self, observation: Array) -> Array:
        """The policy's mode in the environment's units, for raw observations [B, O]."""
        self.check_acts_on_observations_alone()
        normal = self.observation_normalizer(np.asarray(observation, dtype=np.float32))
        choice = ModeActor(self.policy, self.device)(normal, np.arange(len(normal)))
        return self.actions.to_env(choice.action)

    def check_acts_on_observations_alone(self) -> None:
        """Raise `UserError` for a policy that looks back, or is asked for a return: `evaluate` knows how they act."""
        if self.asked is not None or isinstance(self.policy, HistoryPolicy):
            raise UserError(
                f"policy '{self.policy_kind}' acts on more than the observation (what is asked for, the past): it can "
                "be evaluated, but neither filmed nor collected from"
            )

    def record_video(self, path: Path, episodes: int = 1) -> Path:
        """Film the policy's mode from the first evaluation reset; needs an environment that renders."""
        from unirl.control.data.video import record

        seed = self.worlds.stream(EVALUATION_STREAM, 1)[0]
        kwargs, perturb = self.task.get("env_kwargs"), self.task.get("perturb")
        return record(self.info.task, self.act, path, episodes=episodes, seed=seed, env_kwargs=kwargs, perturb=perturb)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Networks, anchors, generators, environments and statistics, as tensors, arrays and JSON values."""
        return {
            "networks": {name: copied(network) for name, network in self._networks().items()},
            "anchors": {name: copied(anchor) for name, anchor in self.anchors.items()},
            "generator": self.generator.get_state(),
            "worlds": self.worlds.state_dict(),
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
        self.worlds.load_state_dict(state["worlds"])

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take over the policy and the observation statistics of another run; anchors and targets become copies.

        Raises `UserError` where the run's policy has another shape.
        """
        try:
            self.policy.load_state_dict(state["networks"]["policy"])
        except (RuntimeError, KeyError) as error:
            raise UserError("init: the run's policy has another shape; give it the same task and model") from error
        self.observation_normalizer.load_state_dict(state["worlds"]["normalizer"])
        for follower in (*self.anchors.values(), self.target_policy):
            if follower is not None:
                move(follower, self.policy, 1.0)

    def _networks(self) -> dict[str, nn.Module]:
        names = ("policy", "value", "target_value", "q", "target_q", "target_policy")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None} | self.models

    def store_observations(self) -> None:
        """Show observations as they are from now on, unless running statistics were asked for: they are used again."""
        observation, reward = self._wants
        if observation is None and self.observation_normalizer.mode == "running":
            self.observation_normalizer.mode = "off"
        if reward is None:
            self.reward_scaler.enabled = False
