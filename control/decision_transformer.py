"""A causal transformer over returns, observations and actions as a policy."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unirl.control.distributions import Deterministic
from unirl.control.envs import ActionSpace
from unirl.control.history import HistoryPolicy
from unirl.errors import UserError

DEFAULTS = {"context": 20, "layers": 3, "attention_heads": 1, "embedding": 128, "dropout": 0.1, "longest_episode": 1000}


class DecisionTransformer(HistoryPolicy):
    r"""Actions predicted from the last `context` decisions and the return that is asked for (Chen et al. 2021).

    .. math:: a_t = \tanh(W h_t),\quad h = \mathrm{GPT}(\hat R_1, s_1, a_1, \dots, \hat R_t, s_t)_{\text{at } s_t}

    Every token is a linear embedding plus one of its decision's number in the episode, at most `longest_episode`; the
    blocks normalise before attention and before a relu layer of four times the width. The return is the last column
    of the observation where the policy is asked for one (`condition`); otherwise there is no such token and the policy
    clones behaviour. Mode: the mean, in [-1, 1]; samples add noise of `exploration_std`.
    Defaults are the paper's for MuJoCo. Raises `UserError` for sizes that do not fit each other.
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        sizes = {name: model.get(name, value) for name, value in DEFAULTS.items()}
        counts = [name for name in sizes if name != "dropout"]
        if any(not isinstance(sizes[name], int) or sizes[name] < 1 for name in counts):
            raise UserError(f"policy 'decision_transformer': {', '.join(counts)} are whole numbers of at least 1")
        width, heads = int(sizes["embedding"]), int(sizes["attention_heads"])
        if width % heads:
            raise UserError(f"policy 'decision_transformer': embedding {width} is no multiple of {heads} heads")
        self.context, self.longest = int(sizes["context"]), int(sizes["longest_episode"])
        self.asked = model.get("condition") is not None
        self.noise_std = float(model.get("exploration_std", 0.1))
        self.of_return = nn.Linear(1, width) if self.asked else None
        self.of_observation = nn.Linear(observation_size - self.asked, width)
        self.of_action = nn.Linear(actions.size, width)
        self.of_time = nn.Embedding(self.longest, width)
        self.first_norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(float(sizes["dropout"]))
        self.blocks = nn.ModuleList(Block(width, heads, float(sizes["dropout"])) for _ in range(int(sizes["layers"])))
        self.mean = nn.Linear(width, actions.size)
        self.apply(_started)

    def encode(self, observation: Tensor, action: Tensor, time: Tensor) -> Tensor:
        """Features of every decision, [N, T, H]: the outputs at the tokens of the observations."""
        rows, length = observation.shape[:2]
        if length > self.context:
            raise UserError(f"a transformer with policy.context={self.context} cannot score rows of {length} decisions")
        when = self.of_time(time.clamp(max=self.longest - 1))
        seen = observation[..., :-1] if self.asked else observation
        tokens = [self.of_observation(seen) + when, self.of_action(action) + when]
        if self.of_return is not None:
            tokens.insert(0, self.of_return(observation[..., -1:]) + when)
        kinds = len(tokens)
        hidden = self.drop(self.first_norm(torch.stack(tokens, 2).reshape(rows, length * kinds, -1)))
        for block in self.blocks:
            hidden = block(hidden)
        normal: Tensor = self.last_norm(hidden)
        return normal.reshape(rows, length, kinds, -1)[:, :, kinds - 2]

    def head(self, features: Tensor) -> Deterministic:
        """The action tanh(W h)."""
        return Deterministic(torch.tanh(self.mean(features)), self.noise_std)


class Block(nn.Module):
    """Causal self-attention and two layers, each added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.into_attention, self.out_of_attention = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, H] -> [N, L, H]; position l sees positions up to l."""
        rows, length, width = x.shape
        split = self.into_attention(self.norms[0](x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropped = self.drop.p if self.drop.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        x = x + self.drop(self.out_of_attention(mixed.transpose(1, 2).reshape(x.shape)))
        added: Tensor = self.drop(self.narrow(F.relu(self.wide(self.norms[1](x)))))
        return x + added


def _started(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), biases 0, as in GPT-2."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
