"""What a world must offer to be trained in: the `Domain` protocol and the requirements a method hands to it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

from torch import nn

from unirl.batch import Batch
from unirl.errors import UserError

# What `Domain.score` may be asked for. The detached fields are computed once per batch, before the update; the
# others are differentiable and computed anew for every minibatch. A dotted name asks for one entry of a nested field.
# `estimate.NAME` and `model.NAME` are what auxiliary models of the domain say (see `Requirements.models`).
DETACHED = frozenset(
    {
        *("old_logp", "anchor_logp", "value", "next_value", "target_value", "next_target_value"),
        *("top_token", "anchor_top_logp"),
        *("next_q", "next_q_std", "next_logp", "next_policy_action", "next_online_q", "target_q_data", "estimate"),
    }
)
DIFFERENTIABLE = frozenset(
    {
        *("sample_logp_parts", "sample_anchor_logp_parts"),
        *("router", "expert_q", "expert_logp", "expert_own_logp"),
        *("logp", "entropy", "sample_logp", "sample_anchor_logp", "policy_action", "anchor_kl", "kl_from_anchor"),
        "top_logp",
        *("value_pred", "value_pred_std", "next_value_pred", "next_target_q_pred"),
        *("q", "q_first", "q_std", "q_data", "q_data_std", "model"),
    }
)
OF_TOP_CHOICES = frozenset({"top_logp", "anchor_top_logp"})  # of the choices `top_token`, which are fixed first


def split_needs(reads: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Of all that parts read, what a domain computes: (detached, differentiable)."""
    heads = {name: name.partition(".")[0] for name in reads}
    if OF_TOP_CHOICES & set(heads.values()):
        heads["top_token"] = "top_token"
    detached = frozenset(name for name, head in heads.items() if head in DETACHED)
    differentiable = frozenset(name for name, head in heads.items() if head in DIFFERENTIABLE)
    return detached, differentiable


@dataclass(frozen=True)
class QSpec:
    """An ensemble of state-action critics: how many heads, and how the target action is made.

    `smoothing_std`, `smoothing_clip`: clipped Gaussian noise on the target policy's action (TD3), in units of the
    action half-range; `target_policy`: the next action comes from a slowly moving copy of the policy, which moves by
    the same `tau`. `atoms`: numbers per head that stand for its distribution of returns (quantiles, nodes); the
    domain's fields hold them as heads * atoms heads, atom by atom. `std`: every head also predicts a standard
    deviation, in the fields `..._std`. `layer_norm`, `dropout`: of the hidden layers. `batch_norm`: inputs and hidden
    layers are normalised over the batch. `tau`: speed of the target copies; None: there are none. `join`: how the heads
    are joined, choice by choice, before the expectation over choices is taken (where actions are choices: `q` and
    `next_q` are then [N, T]); None: they are not.
    """

    heads: int = 2
    atoms: int = 1
    std: bool = False
    layer_norm: bool = False
    batch_norm: bool = False
    dropout: float = 0.0
    tau: float | None = 0.005
    smoothing_std: float = 0.0
    smoothing_clip: float = 0.5
    target_policy: bool = False
    join: str | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ValueSpec:
    """A state value: `heads` above 1 makes its fields [heads, N, T].

    `std`: it also predicts a standard deviation (`value_pred_std`). `tau`: where given, a target copy moves at this
    speed (`target_value`, `next_target_value`). `layer_norm`, `dropout`: of the hidden layers.
    """

    heads: int = 1
    std: bool = False
    tau: float | None = None
    layer_norm: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class Requirements:
    """What a method needs a domain to hold: critics, frozen copies of the policy, auxiliary models.

    `policy`: the kind of policy that the method is defined for, e.g. "deterministic" (TD3), and `policy_options` what
    it asks of it, e.g. `{experts: 4}`. `given`: anchors made elsewhere, name -> file. `models`: auxiliary models of
    the domain (a model of the behaviour policy, a classifier of dynamics, ...), name -> options. `top_choices`: how
    many of the policy's likeliest choices are looked at (`top_token`); the parts take the first as many as they need.
    `densities`: `sample_logp` must be of one fresh action, not an expectation over choices.
    """

    value: ValueSpec | None = None
    q: QSpec | None = None
    anchors: frozenset[str] = field(default_factory=frozenset)
    given: Mapping[str, str] = field(default_factory=dict)
    policy: str | None = None
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    top_choices: int = 0
    densities: bool = False

    def and_also(self, other: "Requirements") -> "Requirements":
        """The union. Where both describe the same network, what differs from the defaults counts, `other`'s first."""
        return Requirements(
            value=_union(self.value, other.value),
            q=_union(self.q, other.q),
            anchors=self.anchors | other.anchors,
            given={**self.given, **other.given},
            policy=other.policy or self.policy,
            policy_options={**self.policy_options, **other.policy_options},
            models={**self.models, **other.models},
            top_choices=max(self.top_choices, other.top_choices),
            densities=self.densities or other.densities,
        )


def _union(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    special = {f.name: getattr(second, f.name) for f in fields(second) if getattr(second, f.name) != f.default}
    return replace(first, **special)


def role_of(loss: str) -> str:
    """Whose parameters a loss trains: what stands before the slash in `value/backward`."""
    return loss.partition("/")[0]


def model_and_options(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An auxiliary model as a part names it, `nearest_action` or `{name: nearest_action, beta: 2}`."""
    options = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in options:
        raise UserError(f"a model is given as a name or as {{name: ..., hyper-parameters}}, not {given!r}")
    return str(options.pop("name")), options


@dataclass(frozen=True)
class Opponent:
    """A second sampler in each group: the geometric mixture policy^(1-mixture) * anchor^mixture (Nash-MD)."""

    anchor: str = "ref"
    mixture: float = 0.0
    per_group: int = 1


@dataclass(frozen=True)
class DomainInfo:
    """Facts about a domain that the trainer and parts' defaults need.

    `independent_decisions`: decisions may be scored apart from their row (true for Markov policies, false for text).
    `groups_share_work`: scoring the rows of a group together costs less than apart (text: their prompt is read once).
    `target_entropy`: the default floor of automatic temperature, nats per decision (-dim(A) for continuous actions).
    `sample_unit`: what `samples` counts.
    """

    name: str
    task: str
    independent_decisions: bool
    target_entropy: float
    sample_unit: str
    groups_share_work: bool = False


class Dataset(Protocol):
    """Recorded experience."""

    def __len__(self) -> int: ...

    def sample(self, n: int) -> Batch:
        """`n` rows (or `n` pairs, for a preference dataset) drawn with the dataset's own generator."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The generator's state: all that is needed to continue the same sequence of draws."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Domain(Protocol):
    """A world with a policy in it. It knows nothing of algorithms."""

    policy: nn.Module
    info: DomainInfo

    def build(self, requirements: Requirements) -> None:
        """Make the critics and anchors a method needs; called once, before anything else."""
        ...

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Trainable parameters of `policy`, `value`, `q` or an auxiliary model; none for a role it does not hold."""
        ...

    def rollout(
        self,
        n: int,
        *,
        group_size: int = 1,
        unit: str = "episode",
        opponent: Opponent | None = None,
        uniform: bool = False,
    ) -> Batch:
        """Sample with the current policy, or (`uniform`, the warm-up of off-policy methods) uniformly at random.

        `unit="episode"`: `n` whole rows, in groups of `group_size` from the same start (prompt, reset state).
        `unit="segment"`: `n` decisions in total, continuing where the last call stopped (control only).
        Fills `mask`, `behavior_logp`, `inputs`, `reward`, `terminated`, `truncated`, `score`, `group`, `prompt_id`.
        """
        ...

    def score(self, batch: Batch, need: Collection[str]) -> Batch:
        """Add the fields that `need` names; with gradients for those in `DIFFERENTIABLE`."""
        ...

    def dataset(self, options: Mapping[str, Any]) -> Dataset:
        """Recorded decisions or demonstrations of the task, presented as a method asks (`source.data` in its file)."""
        ...

    def preferences(self) -> Dataset:
        """Recorded pairs of the task: batches with `pairs` and `pair_label`."""
        ...

    def copy_policy(self, anchor: str, decay: float = 0.0) -> None:
        """Set anchor <- decay * anchor + (1 - decay) * policy."""
        ...

    def update_targets(self) -> None:
        """Move the target networks by the `tau` of the requirements."""
        ...

    def microbatches(self, batch: Batch) -> list[Batch]:
        """Split a minibatch into what fits in memory at once; rows of a pair stay together."""
        ...

    def evaluate(self, episodes: int) -> dict[str, float]:
        """Fixed-seed evaluation; must contain `score`, larger is better."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit: networks, anchors, generators, environment state, normalisers."""
        ...

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take over the policy of another run's `state_dict`, and what it sees through; anchors become copies of it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
