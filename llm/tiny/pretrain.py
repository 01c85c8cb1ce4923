"""Supervised pre-training of a tiny Qwen3 on a task's demonstrations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from unirl.errors import UserError, unknown
from unirl.llm.tasks.task import Task

IGNORED = -100  # target of what is not trained on

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network. `vocabulary`: the most tokens of a byte-pair vocabulary; small alphabets have fewer."""

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    intermediate: int = 256
    vocabulary: int = 1024
    positions: int = 4096

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_whole("model", each.name, getattr(self, each.name), least=1)
        if self.hidden % (2 * self.heads):
            raise UserError(f"model.hidden={self.hidden} must be an even multiple of model.heads={self.heads}")


@dataclass(frozen=True)
class Pretraining:
    """The `pretrain` section of a task: AdamW on the demonstrations' responses.

    The learning rate rises linearly over `warmup` steps, then falls linearly to a tenth of `lr` at the last step.
    `examples` demonstrations are drawn once and gone through in random order, `steps` batches of `batch` in all: steps,
    not seconds, so that the result is the same on every run. `steps: 0` leaves the network at its random start.
    `slips`: the share of demonstrations, drawn anew each time one is seen, in which one token is wrong. The model then
    knows the task and still errs about that often when sampled: a mixed-quality start that leaves reinforcement both
    signal and room, as D4RL's "medium" agents do in control.
    """

    steps: int = 600
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    examples: int = 8192
    slips: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.slips < 1:
            raise UserError(f"task.pretrain.slips is {self.slips}; a share of demonstrations lies in [0, 1)")
        for name, least in (("steps", 0), ("batch", 1), ("warmup", 0), ("examples", 1)):
            _check_whole("task.pretrain", name, getattr(self, name), least)
        if not (self.lr > 0 and self.weight_decay >= 0):
            raise UserError("task.pretrain.lr must be positive and task.pretrain.weight_decay not negative")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (1 - 0.9 * (step - self.warmup) / max(self.steps - self.warmup, 1))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The sizes among the keys of a `model` section; other keys belong to others."""
    return Architecture(**{each.name: config[each.name] for each in fields(Architecture) if each.name in config})


def read_pretraining(config: Mapping[str, Any] | None) -> Pretraining:
    """The `pretrain` section of a task; raises `UserError` for unknown keys."""
    known = [each.name for each in fields(Pretraining)]
    for key in config or {}:
        if key not in known:
            raise unknown("key of task.pretrain", key, known)
    return Pretraining(**(config or {}))


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 with tied embeddings, float32; the global generator is left as it was."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        head_dim=architecture.hidden // architecture.heads,
        max_position_embeddings=architecture.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def pretrain(
    model: Qwen3ForCausalLM, task: Task, settings: Pretraining, seed: int, progress: Progress | None = None
) -> None:
    """Train `model` in place to write the task's demonstrations; the loss is on response tokens only, the end included.

    One thread, so that the result does not depend on how many the caller has: a network this small gains little from
    more. `progress(done, steps)` is called after every step.
    """
    if settings.steps == 0:
        return
    ids, targets, lengths = _tensors(task.demonstrations(settings.examples), model.config.pad_token_id or 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with _one_thread():
        for step, rows in enumerate(_batches(len(ids), settings, generator)):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            longest = int(lengths[rows].max())
            shown, wanted = _with_slips(ids[rows, :longest], targets[rows, :longest], settings.slips, generator)
            _loss(model, shown, wanted).backward()
            optimizer.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, settings.steps)
    model.eval()


def _loss(model: Qwen3ForCausalLM, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the targets. Padding is on the right, where a causal model's real tokens never see it."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    after = targets[:, 1:]
    trained = after != IGNORED
    return cross_entropy(model.lm_head(hidden[trained]), after[trained])


def _with_slips(ids: Tensor, targets: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """In a random `share` of the rows, one response token (never the last) replaced by another of the batch's."""
    if share == 0:
        return ids, targets
    written = targets != IGNORED
    written[torch.arange(len(ids)), written.cumsum(1).argmax(1)] = False  # the end is never a slip
    chance = torch.rand(ids.shape, generator=generator).masked_fill(~written, -1.0)
    chance, column = chance.max(1)
    slips = (torch.rand(len(ids), generator=generator) < share) & (chance >= 0)
    rows, column = slips.nonzero().squeeze(-1), column[slips]
    vocabulary = targets[written].unique()
    place = torch.searchsorted(vocabulary, targets[rows, column])
    other = torch.randint(1, max(len(vocabulary), 2), (len(rows),), generator=generator)
    wrong = vocabulary[(place + other) % len(vocabulary)]
    ids, targets = ids.clone(), targets.clone()
    ids[rows, column] = targets[rows, column] = wrong
    return ids, targets


def _tensors(demonstrations: Sequence[tuple[Any, list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [N, L] and targets [N, L], padded on the right, and lengths [N]."""
    whole = [torch.tensor(prompt.token_ids + response) for prompt, response in demonstrations]
    wanted = [torch.tensor([IGNORED] * len(prompt.token_ids) + response) for prompt, response in demonstrations]
    ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=pad)
    targets = torch.nn.utils.rnn.pad_sequence(wanted, batch_first=True, padding_value=IGNORED)
    return ids, targets, torch.tensor([len(row) for row in whole])


def _batches(count: int, settings: Pretraining, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each step: random orders of all rows, one after the other."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(settings.steps):
        while len(order) < settings.batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[: settings.batch]
        order = order[settings.batch :]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_whole(section: str, name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{section}.{name} is {value!r}; it must be a whole number of at least {least}")
