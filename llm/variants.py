"""The policy being trained beside frozen copies of itself and the critic's trunk: full copies, or adapters on one base.

Both classes here answer the same calls, so that scoring and sampling never ask how a copy is kept:
`with variants.using(name) as network` lends the transformers model that acts as `POLICY`, `CRITIC` or an anchor.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from unirl.errors import unknown
from unirl.llm.models import plain, unique_parameters

POLICY = "<policy>"
CRITIC = "<critic>"


class Variants(Protocol):
    """The trained policy, its anchors and, where asked for, a critic's trunk."""

    @property
    def anchors(self) -> Mapping[str, Any]:
        """The anchors, by name."""
        ...

    @property
    def has_critic(self) -> bool:
        """Whether `add_critic` was called."""
        ...

    def using(self, name: str) -> AbstractContextManager[PreTrainedModel]:
        """The network that acts as `name`, for the length of the context; raises `UserError` for an unknown anchor."""
        ...

    def copy_policy(self, anchor: str, decay: float) -> None:
        """Move an anchor: decay * anchor + (1 - decay) * policy; a new anchor is a copy whatever the decay."""
        ...

    def add_critic(self) -> None:
        """Make the critic's trunk, a trainable copy of the policy as it is now."""
        ...

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Trainable parameters of `POLICY` or `CRITIC`."""
        ...

    @property
    def adapter(self) -> PeftConfig | None:
        """The description of the policy's adapter; None where the whole model is trained."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What another engine needs to become the policy: every weight under transformers' names, or PEFT's adapter.

        Tied tensors are there under each of their names: engines may keep a packed copy for every one.
        """
        ...

    def base(self) -> dict[str, Tensor]:
        """The weights of the policy's model without its adapter, under transformers' names."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights that training can change; the base under adapters is not among them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


def variants_of(policy: nn.Module) -> Variants:
    """`Adapters` for a model with LoRA, `Copies` otherwise."""
    return Adapters(policy) if isinstance(policy, PeftModel) else Copies(plain(policy))


class Copies:
    """Anchors as frozen deep copies of the whole model."""

    def __init__(self, policy: PreTrainedModel) -> None:
        self.policy = policy
        self.critic: PreTrainedModel | None = None
        self.anchors: dict[str, PreTrainedModel] = {}

    @property
    def has_critic(self) -> bool:
        """See `Variants.has_critic`."""
        return self.critic is not None

    @contextmanager
    def using(self, name: str) -> Iterator[PreTrainedModel]:
        """See `Variants.using`."""
        yield self._network(name)

    def copy_policy(self, anchor: str, decay: float) -> None:
        """See `Variants.copy_policy`."""
        if anchor not in self.anchors:
            self.anchors[anchor] = copy.deepcopy(self.policy).requires_grad_(False)
            return
        _move(unique_parameters(self.anchors[anchor]), unique_parameters(self.policy), decay)

    def add_critic(self) -> None:
        """See `Variants.add_critic`."""
        self.critic = copy.deepcopy(self.policy)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """See `Variants.parameters`. The critic's output projection is not used and not trained."""
        network = self._network(name)
        return list((network.base_model if name == CRITIC else network).parameters())

    @property
    def adapter(self) -> None:
        """See `Variants.adapter`."""
        return None

    def weights(self) -> dict[str, Tensor]:
        """See `Variants.weights`."""
        return dict(self.policy.state_dict())

    def base(self) -> dict[str, Tensor]:
        """See `Variants.base`."""
        return self.weights()

    def state_dict(self) -> dict[str, Any]:
        """See `Variants.state_dict`."""
        return {
            "policy": unique_parameters(self.policy),
            "critic": None if self.critic is None else unique_parameters(self.critic),
            "anchors": {name: unique_parameters(network) for name, network in self.anchors.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Variants.state_dict`."""
        _move(unique_parameters(self.policy), state["policy"])
        if state["critic"] is not None:
            if self.critic is None:
                self.add_critic()
            _move(unique_parameters(self._network(CRITIC)), state["critic"])
        for name, weights in state["anchors"].items():
            self.copy_policy(name, 0.0)
            _move(unique_parameters(self.anchors[name]), weights)

    def _network(self, name: str) -> PreTrainedModel:
        if name == POLICY:
            return self.policy
        if name == CRITIC and self.critic is not None:
            return self.critic
        if name not in self.anchors:
            raise unknown("anchor", name, self.anchors)
        return self.anchors[name]


class Adapters:
    """Anchors as adapters on one frozen base; an anchor equal to the base stores nothing at all.

    A fresh adapter adds nothing (B = 0), so an anchor taken before training, such as `ref`, is the base with its
    adapters switched off. An anchor taken later stores the weights of the adapter as they were.
    """

    def __init__(self, policy: PeftModel) -> None:
        self.model = policy
        self.network = plain(policy)
        self._tuner: Any = policy.base_model  # peft's wrapper, which switches adapters on and off
        self.anchors: dict[str, str | None] = {}  # anchor -> its adapter; None for the base itself
        self._has_critic = False

    @property
    def has_critic(self) -> bool:
        """See `Variants.has_critic`."""
        return self._has_critic

    @contextmanager
    def using(self, name: str) -> Iterator[PreTrainedModel]:
        """See `Variants.using`. Gradients reach the policy's and the critic's adapters, whichever was used last."""
        if name == POLICY:
            yield self.network
            return
        adapter = self._adapter(name)
        try:
            if adapter is None:
                self._tuner.disable_adapter_layers()
            else:
                self.model.set_adapter(adapter, inference_mode=name != CRITIC)
            yield self.network
        finally:
            if adapter is None:
                self._tuner.enable_adapter_layers()
            self._activate_policy()

    def copy_policy(self, anchor: str, decay: float) -> None:
        """See `Variants.copy_policy`. Averages the factors A and B, not their product."""
        if anchor not in self.anchors or decay == 0.0:
            if self._policy_is_base():
                self._forget(anchor)
                return
            self._store(anchor)
        elif self.anchors[anchor] is None:
            if self._policy_is_base():
                return
            self._store(anchor)
            self._zero(anchor)
        _move(self._weights(f"anchor_{anchor}"), self._weights("default"), decay)

    def add_critic(self) -> None:
        """See `Variants.add_critic`: an adapter of its own on the same base."""
        self._add("critic")
        self._has_critic = True
        self._activate_policy()

    def parameters(self, name: str) -> list[nn.Parameter]:
        """See `Variants.parameters`."""
        return list(self._weights("default" if name == POLICY else "critic", detached=False).values())

    @property
    def adapter(self) -> PeftConfig:
        """See `Variants.adapter`."""
        return self.model.peft_config["default"]

    def weights(self) -> dict[str, Tensor]:
        """See `Variants.weights`: the adapter alone."""
        return {f"base_model.model.{name}": weight for name, weight in self._weights("default").items()}

    def base(self) -> dict[str, Tensor]:
        """See `Variants.base`."""
        stored = self.network.state_dict()
        return {name.replace(".base_layer.", "."): weight for name, weight in stored.items() if ".lora_" not in name}

    def state_dict(self) -> dict[str, Any]:
        """See `Variants.state_dict`."""
        stored = {a: None if adapter is None else self._weights(adapter) for a, adapter in self.anchors.items()}
        critic = self._weights("critic") if self._has_critic else None
        return {"policy": self._weights("default"), "critic": critic, "anchors": stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Variants.state_dict`."""
        _move(self._weights("default"), state["policy"])
        if state["critic"] is not None:
            if not self._has_critic:
                self.add_critic()
            _move(self._weights("critic"), state["critic"])
        for name, weights in state["anchors"].items():
            if weights is None:
                self._forget(name)
            else:
                self._store(name)
                _move(self._weights(f"anchor_{name}"), weights)

    def _adapter(self, name: str) -> str | None:
        if name == CRITIC and self._has_critic:
            return "critic"
        if name not in self.anchors:
            raise unknown("anchor", name, self.anchors)
        return self.anchors[name]

    def _store(self, anchor: str) -> None:
        """Give the anchor an adapter of its own, equal to the policy's."""
        if self.anchors.get(anchor) is None:
            self._add(f"anchor_{anchor}")
            self.anchors[anchor] = f"anchor_{anchor}"
            self._activate_policy()

    def _forget(self, anchor: str) -> None:
        """Let the anchor be the base itself."""
        adapter = self.anchors.get(anchor)
        self.anchors[anchor] = None
        if adapter is not None:
            self.model.delete_adapter(adapter)
            self._activate_policy()

    def _zero(self, anchor: str) -> None:
        for name, weight in self._weights(f"anchor_{anchor}").items():
            if "lora_B" in name:
                weight.zero_()

    def _add(self, adapter: str) -> None:
        with torch.random.fork_rng(devices=[]):  # its random start is overwritten at once
            self.model.add_adapter(adapter, self.model.peft_config["default"])
        _move(self._weights(adapter), self._weights("default"))

    def _activate_policy(self) -> None:
        """Switch to the policy's adapter; peft freezes the others, but the critic's goes on learning."""
        self.model.set_adapter("default")
        if self._has_critic:
            for weight in self._weights("critic", detached=False).values():
                weight.requires_grad_(True)

    def _policy_is_base(self) -> bool:
        return all(not weight.any() for name, weight in self._weights("default").items() if "lora_B" in name)

    def _weights(self, adapter: str, detached: bool = True) -> dict[str, Any]:
        """The weights of an adapter, named without it."""
        found = {}
        for name, weight in self.network.named_parameters():
            parts = name.split(".")
            if adapter in parts and any(part.startswith("lora_") for part in parts):
                parts.remove(adapter)
                found[".".join(parts)] = weight.detach() if detached else weight
        return found


@torch.no_grad()
def _move(target: Mapping[str, Tensor], source: Mapping[str, Tensor], decay: float = 0.0) -> None:
    """Set target to decay * target + (1 - decay) * source, name by name; integers are copied."""
    for name, value in source.items():
        if decay == 0.0 or not value.is_floating_point():
            target[name].copy_(value)
        else:
            target[name].lerp_(value, 1.0 - decay)
