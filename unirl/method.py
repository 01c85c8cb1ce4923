"""A method: parts named in one YAML file, composed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.domain import DomainInfo, Requirements, split_needs
from unirl.errors import UserError, unknown
from unirl.registry import make

KEYS = frozenset(
    {
        *("name", "entry", "entries", "domains", "default_task", "paper", "summary", "notes", "per_domain"),
        *("source", "rewards", "advantage", "selection", "objective", "regularizers", "critic", "reduce"),
        *("anchors", "policy", "constraints", "update"),
    }
)


SECTIONS = {"source": "{name: online, rows: 2048}", "update": "{name: adam, lr: 3e-4}"}  # with examples

# Fields that a domain reads off the networks which a method's critics require.
OF_Q = frozenset(
    {
        *("q", "q_first", "q_std", "q_data", "q_data_std", "next_q", "next_q_std", "next_online_q", "target_q_data"),
        *("next_target_q_pred", "expert_q"),
    }
)
OF_VALUE = frozenset(
    {
        *("value", "next_value", "target_value", "next_target_value"),
        *("value_pred", "value_pred_std", "next_value_pred"),
    }
)


@dataclass(frozen=True)
class Term:
    """A regularizer and its strength: the loss gains `coefficient * penalty`."""

    penalty: Any
    coefficient: Any


@dataclass(frozen=True)
class Method:
    """Everything an algorithm is: what it does to a batch before the update, and its named losses.

    Losses are named by what they train: `value`, `q` and auxiliary models (critics, in the order of the
    configuration), `policy` (objective + regularizers), `temperature` (learned coefficients). Two losses of the same
    parameters that the update must tell apart are named after a slash, `value/backward`; `constraints` are such losses
    of the policy, `policy/NAME`, that a gradient rule holds the step to. Anchors map a name to how
    often it is refreshed: `every` iterations (None: once, before training), with exponential `decay`; or to the `file`
    of a policy made elsewhere, a teacher or an opponent that never changes.
    """

    name: str
    objective: Any
    reduce: Any
    rewards: tuple[Any, ...] = ()
    advantage: tuple[Any, ...] = ()
    selection: tuple[Any, ...] = ()
    terms: tuple[Term, ...] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)
    critics: tuple[Any, ...] = ()
    anchors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], info: DomainInfo) -> "Method":
        """Build the parts of a method's configuration; raises `UserError` for unknown keys, names and values."""
        for key in config:
            if key not in KEYS:
                raise unknown("method key", key, KEYS, see="docs/design.md")
        for key in SECTIONS:
            section(config, key)
        name = str(config.get("name", "method"))
        allowed = config.get("domains") or [info.name]
        if info.name not in allowed:
            raise UserError(f"method '{name}' is for {' and '.join(allowed)}, not for {info.name}  see: unirl methods")
        if "objective" not in config:
            raise UserError(f"method '{name}' names no objective  see: unirl parts objective")
        method = cls(
            name=name,
            objective=_part("objective", config["objective"]),
            reduce=_part("reduce", config.get("reduce", "token_mean")),
            rewards=_parts("reward", config.get("rewards")),
            advantage=_parts("advantage", config.get("advantage")),
            selection=_parts("selection", config.get("selection")),
            terms=tuple(_term(entry, info) for entry in _as_list(config.get("regularizers"))),
            constraints={k: _part("regularizer", v) for k, v in (config.get("constraints") or {}).items()},
            critics=_parts("critic", config.get("critic")),
            anchors={k: dict(v or {}) for k, v in (config.get("anchors") or {}).items()},
            policy=_named_options("policy", config.get("policy")),
        )
        method._check_domain(info)
        method._check_anchors()
        method._check_critics()
        return method

    @property
    def parts(self) -> tuple[Any, ...]:
        """Every part, in the order in which a batch meets them."""
        penalties = tuple(term.penalty for term in self.terms) + tuple(term.coefficient for term in self.terms)
        penalties += tuple(self.constraints.values())
        return (*self.rewards, *self.advantage, *self.selection, *self.critics, self.objective, *penalties, self.reduce)

    @property
    def requirements(self) -> Requirements:
        """What a domain must hold: the union over the parts, the anchors and the kind of policy."""
        given = {name: str(rule["file"]) for name, rule in self.anchors.items() if "file" in rule}
        policy = self.policy or {}
        needed = Requirements(
            anchors=frozenset(self.anchors) - set(given),
            given=given,
            policy=policy.get("name"),
            policy_options={key: value for key, value in policy.items() if key != "name"},
        )
        for part in self.parts:
            if hasattr(part, "requirements"):
                needed = needed.and_also(part.requirements())
        return needed

    @cached_property
    def losses_in_order(self) -> tuple[str, ...]:
        """Names of the losses: critics first, then the policy, then learned coefficients."""
        critics = dict.fromkeys(critic.loss_name for critic in self.critics)
        learned = ("temperature",) if self.parameters("temperature") else ()
        return (*critics, "policy", *(f"policy/{name}" for name in self.constraints), *learned)

    @cached_property
    def prepares_with(self) -> frozenset[str]:
        """Detached fields that the domain computes once per batch, before `prepare` and the update."""
        return split_needs({name for part in self.parts for name in _reads(part)})[0]

    @cached_property
    def reads_old_logp_late(self) -> bool:
        """Whether `old_logp` is read by the policy's losses alone, beside `logp`.

        Until the policy's first step the two are equal, so these losses can do without a forward pass for it.
        """
        early = (*self.rewards, *self.advantage, *self.selection, *self.critics, self.reduce)
        late = self._readers(["policy", *(f"policy/{name}" for name in self.constraints)])
        read_early = any("old_logp" in _reads(part) for part in early)
        return "old_logp" in self.prepares_with and not read_early and any("logp" in _reads(part) for part in late)

    def differentiates(self, names: Collection[str]) -> frozenset[str]:
        """Differentiable fields that the named losses need."""
        losses = frozenset(names)
        if losses not in self._differentiated:
            self._differentiated[losses] = split_needs(
                {name for part in self._readers(losses) for name in _reads(part)}
            )[1]
        return self._differentiated[losses]

    @cached_property
    def _differentiated(self) -> dict[frozenset[str], frozenset[str]]:
        return {}

    def _readers(self, names: Collection[str]) -> list[Any]:
        """The parts that the named losses are made of."""
        readers: list[Any] = [critic for critic in self.critics if critic.loss_name in names]
        if "policy" in names:
            readers += [self.objective, *(term.penalty for term in self.terms)]
        readers += [part for name, part in self.constraints.items() if f"policy/{name}" in names]
        if "temperature" in names:
            readers += [term.coefficient for term in self.terms]
        return readers

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Parameters of the method itself that a loss trains: those of `temperature`, and critics' own weights."""
        learned = [term.coefficient for term in self.terms] if name == "temperature" else []
        learned += [critic for critic in self.critics if critic.loss_name == name and hasattr(critic, "parameters")]
        return [parameter for part in learned for parameter in part.parameters()]

    @cached_property
    def by_row(self) -> bool:
        """Whether rows must stay whole in the update: row or pair losses, or a part that looks over a row."""
        rowwise = (getattr(part, "rowwise", False) for part in (self.objective, self.reduce, *self.critics))
        return self.objective.level != "decision" or any(rowwise)

    @property
    def clip_range(self) -> tuple[float, float] | None:
        """The objective's ratio clip, for the log."""
        low, high = getattr(self.objective, "clip_low", None), getattr(self.objective, "clip_high", None)
        return None if low is None or high is None else (low, high)

    def prepare(self, batch: Batch) -> Batch:
        """Rewards, then advantages, then selection; called once per batch, before it is split."""
        for part in (*self.rewards, *self.advantage, *self.selection):
            batch = part(batch)
        return batch

    def with_divisors(self, minibatch: Batch) -> Batch:
        """Fix what the losses are divided by, so that micro-batches add up to exactly the minibatch's loss."""
        if "divisor" not in minibatch:
            minibatch = minibatch.replace(divisor=self.reduce.divisor(minibatch))
        if self.objective.level == "decision":
            return minibatch
        count = len(minibatch.pairs) if self.objective.level == "pair" else len(minibatch)
        return minibatch.replace(unit_divisor=torch.tensor(float(count)))

    def losses(self, batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
        """The named scalar losses of a scored batch."""
        batch = batch.replace(temperature=self._temperature(batch))
        computed: dict[str, Tensor] = {}
        for critic in self.critics:
            if critic.loss_name in names:
                loss = critic.coef * self.reduce(critic.loss(batch), batch)
                computed[critic.loss_name] = computed.get(critic.loss_name, 0.0) + loss
        if "policy" in names:
            computed["policy"] = self._policy_loss(batch)
        for name, constraint in self.constraints.items():
            if f"policy/{name}" in names:
                computed[f"policy/{name}"] = self._reduced(constraint(batch), batch)
        if "temperature" in names:
            learned = [term.coefficient for term in self.terms if term.coefficient.parameters()]
            computed["temperature"] = self._reduced(sum(coefficient.loss(batch) for coefficient in learned), batch)
        return computed

    def observe(self, batch: Batch) -> None:
        """Let adaptive coefficients measure a scored batch."""
        for term in self.terms:
            term.coefficient.update(batch)

    def coefficients(self, progress: float) -> dict[str, Any]:
        """Current strength of every regularizer and critic loss whose strength changes, for the log."""
        strengths = {
            term.penalty.registered_name: term.coefficient.value(progress)
            for term in self.terms
            if term.coefficient.changes
        }
        strengths |= {
            critic.registered_name: critic.strength() for critic in self.critics if hasattr(critic, "strength")
        }
        return {f"coefficient/{name}": strength for name, strength in strengths.items() if strength is not None}

    def state_dict(self) -> dict[str, Any]:
        """State of every part that has any, by position."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts) if hasattr(part, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for index, part_state in state.items():
            self.parts[int(index)].load_state_dict(part_state)

    def _policy_loss(self, batch: Batch) -> Tensor:
        progress = float(batch.get("progress", 0.0))
        loss: Tensor = self.objective(batch)
        penalty: Tensor | None = None
        for term in self.terms:
            weighted = term.coefficient.value(progress) * term.penalty(batch)
            penalty = weighted if penalty is None else penalty + weighted
        if self.objective.level == "decision":
            return self._reduced(loss if penalty is None else loss + penalty, batch)
        total: Tensor = loss.sum() / batch.unit_divisor
        return total if penalty is None else total + self._reduced(penalty, batch)

    def _reduced(self, per_decision: Tensor, batch: Batch) -> Tensor:
        reduced: Tensor = self.reduce(per_decision, batch)
        return reduced

    def _temperature(self, batch: Batch) -> Any:
        progress = float(batch.get("progress", 0.0))
        for term in self.terms:
            if getattr(term.penalty, "sets_temperature", False):
                return term.coefficient.value(progress)
        return 0.0

    def _check_domain(self, info: DomainInfo) -> None:
        for part in self.parts:
            domains = getattr(part, "domains", None)
            if domains and info.name not in domains:
                raise UserError(
                    f"method '{self.name}': {part.registered_kind} '{part.registered_name}' is for "
                    f"{' and '.join(sorted(domains))}, not for {info.name}"
                )

    def _check_anchors(self) -> None:
        for name, rule in self.anchors.items():
            for key in rule:
                if key not in ("every", "decay", "file"):
                    raise unknown(f"key of the anchor '{name}'", key, ("every", "decay", "file"))
            if "file" in rule and len(rule) > 1:
                raise UserError(
                    f"anchor '{name}' comes from a file and never changes; `every` and `decay` do not apply"
                )
        of_anchors = {"anchor_logp", "anchor_top_logp", "anchor_kl", "kl_from_anchor"}
        of_anchors |= {"sample_anchor_logp", "sample_anchor_logp_parts"}
        for part in self.parts:
            for name in _reads(part):
                head, _, anchor = name.partition(".")
                if head in of_anchors and anchor not in self.anchors:
                    raise UserError(
                        f"method '{self.name}': {part.registered_kind} '{part.registered_name}' needs the anchor "
                        f"'{anchor}'; add `anchors: {{{anchor}: {{}}}}` (or `{{every: 1}}`) to the method"
                    )

    def _check_critics(self) -> None:
        """Raise `UserError` for a part that reads a critic's values where no part asks for such a critic."""
        needed = self.requirements
        missing = [("an action-value critic", "q", OF_Q)] if needed.q is None else []
        missing += [("a state-value critic", "v", OF_VALUE)] if needed.value is None else []
        for part in self.parts:
            for what, name, fields in missing:
                if not fields.isdisjoint(_reads(part)):
                    how = (
                        f"add {{name: {name}}} to method.critic" if self.critics else f"method.critic={{name: {name}}}"
                    )
                    raise UserError(
                        f"method '{self.name}': {part.registered_kind} '{part.registered_name}' needs {what}: {how}"
                    )


def section(method: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A section of a method's configuration as a dict, `adam` as `{name: adam}`; raises `UserError` for a number."""
    given = method.get(key)
    if isinstance(given, str):
        return {"name": given}
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"method.{key} is {given!r}; give a mapping such as {SECTIONS[key]}, or a name")
    return dict(given or {})


def _reads(part: Any) -> tuple[str, ...]:
    return tuple(getattr(part, "reads", ()))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _parts(kind: str, value: Any) -> tuple[Any, ...]:
    return tuple(_part(kind, entry) for entry in _as_list(value))


def _named_options(what: str, entry: Any) -> dict[str, Any] | None:
    """`tanh_gaussian` and `{name: tanh_gaussian, dropout: .1}` alike."""
    if entry is None or isinstance(entry, str):
        return None if entry is None else {"name": entry}
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise UserError(f"a {what} is given as a name or as {{name: ..., hyper-parameters}}, not {entry!r}")
    return {str(key): value for key, value in entry.items()}


def _part(kind: str, entry: Any) -> Any:
    options = _named_options(kind, entry) or {}
    return make(kind, str(options.pop("name")), **options)


def _term(entry: Any, info: DomainInfo) -> Term:
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise UserError(f"a regularizer is given as {{name: ..., coef: ...}}, not {entry!r}")
    penalty = _part("regularizer", {key: value for key, value in entry.items() if key != "coef"})
    strength = entry.get("coef", 1.0)
    if isinstance(strength, int | float):
        strength = {"name": "fixed", "value": float(strength)}
    coefficient = _part("coefficient", strength)
    if hasattr(coefficient, "bind"):
        coefficient.bind(info.target_entropy)
    return Term(penalty, coefficient)
