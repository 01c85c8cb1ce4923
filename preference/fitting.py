"""Training, checking, saving and using preference models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Dataset
from unirl.errors import UserError
from unirl.preference.reward_models import PairwiseModel, RewardModel
from unirl.registry import make, register

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def fit(
    model: PairwiseModel, dataset: Dataset, steps: int, pairs: int = 64, lr: float = 1e-3, weight_decay: float = 0.0
) -> list[float]:
    """Minimise the model's loss by AdamW on `pairs` compared pairs per step; returns the loss of every step.

    `dataset.sample(n)` gives batches with `pairs` and `pair_label`; parameters that need no gradient stay as they are.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=weight_decay)
    losses = []
    for _ in range(steps):
        loss = model.loss(dataset.sample(pairs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def accuracy(model: PairwiseModel, batch: Batch) -> float:
    """Share of the batch's pairs whose likelier side the model prefers; pairs labelled 1/2 are left out."""
    decided = batch.pair_label != 0.5
    if not decided.any():
        raise UserError("accuracy: no pair of the batch has a preferred side")
    right = (model.logit(batch, batch.pairs) > 0) == (batch.pair_label > 0.5)
    return float(right[decided].float().mean())


def save_model(model: PairwiseModel, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`; the encoder must have been given by name, to be made again."""
    if "encoder" not in model.config:
        raise UserError("only a model whose encoder was given as {name: ...} can be saved; keep its state_dict instead")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"name": model.registered_name, **model.config}  # type: ignore[dict-item]
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    save_file({key: leaf.contiguous() for key, leaf in model.state_dict().items()}, folder / WEIGHTS)


def load_model(folder: str | Path) -> PairwiseModel:
    """The model that `save_model` wrote; raises `UserError` where a file is missing or broken."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text())
        weights = load_file(Path(folder) / WEIGHTS)
        model: PairwiseModel = make("preference_model", config.pop("name"), **config)
        model.load_state_dict(weights)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no preference model in {folder} ({reason})") from error
    return model.eval()


def as_model(model: Any, wanted: str) -> PairwiseModel:
    """A model from itself or from the folder it was saved to; `wanted` begins the error's line."""
    made = load_model(model) if isinstance(model, str | Path) else model
    if not isinstance(made, PairwiseModel):
        raise UserError(f"{wanted}: model must be a preference model or the folder it was saved to, not {model!r}")
    return made


@register("reward", "reward_model")
@dataclass(frozen=True)
class ByRewardModel:
    """A trained scalar reward model as reward: fills `score` [N], and `reward` [N, T] with `per_decision`; detached.

    `model` is a `bradley_terry` model or the folder it was saved to. `per_decision` relabels offline experience for
    methods that read `reward`. Reads `mask` and whatever the model's encoder reads. Source: Christiano et al. 2017.
    """

    model: Any
    per_decision: bool = False
    reads = ("mask", "inputs")

    def __post_init__(self) -> None:
        made = as_model(self.model, "reward 'reward_model'")
        if not isinstance(made, RewardModel):
            raise UserError("reward 'reward_model': a pairwise model gives no scalar; use annotator 'by_model'")
        object.__setattr__(self, "model", made)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score`, and `reward` where asked."""
        with torch.no_grad():
            rewards: Tensor = self.model.rewards(batch)
        filled = batch.replace(score=rewards.sum(-1))
        return filled.replace(reward=rewards) if self.per_decision else filled
