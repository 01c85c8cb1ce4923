"""The one loop that trains every method in every domain."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Domain
from unirl.errors import NonFiniteError, UserError
from unirl.method import Method
from unirl.optim import Update
from unirl.trainer import generators
from unirl.trainer.checkpoint import write_checkpoint
from unirl.trainer.diagnostics import engine_log_ratios, engine_mismatch, policy_diagnostics
from unirl.trainer.interruption import Interruption
from unirl.trainer.metrics import Means, MetricsFile
from unirl.trainer.minibatches import minibatches
from unirl.trainer.nonfinite import nonfinite_values, report_nonfinite
from unirl.trainer.progress import ProgressSink
from unirl.trainer.sources import Source


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look: a budget of samples or of iterations, whichever ends first.

    `evaluations`, `checkpoints`, `logs`: how many over the whole run (evaluation also happens before the first
    update). `epochs`, `minibatches`: passes over each batch and the pieces it is cut into.
    """

    samples: int | None = None
    iterations: int | None = None
    evaluations: int = 10
    evaluation_episodes: int = 10
    checkpoints: int = 4
    logs: int = 100
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self) -> None:
        if not self.samples and not self.iterations:
            raise UserError("give a budget: samples=... or iterations=...")
        for name in ("samples", "iterations", "evaluations", "checkpoints", "logs", "epochs", "minibatches"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise UserError(f"{name} is {value!r}; it must be a whole number that is not negative")

    def progress(self, samples: int, iteration: int) -> float:
        """Fraction of the budget that is used, 0 to 1."""
        used = [samples / self.samples] if self.samples else []
        used += [iteration / self.iterations] if self.iterations else []
        return min(max(used), 1.0)


@dataclass
class Trainer:
    """Lets batches flow: source -> prepare -> minibatches -> update, with metrics, evaluation and checkpoints."""

    domain: Domain
    method: Method
    source: Source
    update: Update
    schedule: Schedule
    folder: Path
    progress_sink: ProgressSink
    seed: int = 0
    iteration: int = 0
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._means = Means()
        self._metrics = MetricsFile(self.folder / "metrics.jsonl")
        self._saved: int | None = None  # the iteration of the newest checkpoint
        self._measured: dict[str, Tensor] = {}
        self._unmoved = False  # whether the policy is still what it was when the batch was made
        self._engine_log_ratios: list[Tensor] = []

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used."""
        return self.schedule.progress(self.source.samples, self.iteration)

    def run(self) -> None:
        """Train until the budget is used; Ctrl-C or SIGTERM ends the iteration, saves and raises `Interrupted`."""
        started = time.perf_counter() - self.seconds
        if self.iteration == 0:
            self._evaluate()
        with Interruption() as interruption:
            while self.progress < 1.0:
                before = self.progress
                self.iterate()
                self.seconds = time.perf_counter() - started
                self._report(before, self.progress)
                if interruption.asked:
                    self.checkpoint()
                    interruption.obey()
            self.checkpoint()

    def iterate(self) -> None:
        """One batch from the source, and the updates on it."""
        progress = self.progress
        self._refresh_anchors()
        batch = self.source.next().replace(progress=progress)
        late = {"old_logp"} if self._takes_old_logp_from_logp else set()
        batch = self.domain.score(batch, self.method.prepares_with - late)
        batch = self.method.prepare(batch)
        self._engine_log_ratios, self._unmoved = [], True
        for minibatch in self._minibatches(batch):
            self._update_on(self.method.with_divisors(minibatch), progress)
        self._means.add({**_of_batch(batch), **self._engine_mismatch(batch)})
        self.iteration += 1

    @cached_property
    def _takes_old_logp_from_logp(self) -> bool:
        """Whether the policy's losses are evaluated just once per batch, before its only step: `logp` is `old_logp`."""
        one_step = self.schedule.epochs * self.schedule.minibatches == 1 and self.update.evaluates_once
        return one_step and self.method.reads_old_logp_late

    def _update_on(self, minibatch: Batch, progress: float) -> None:
        targets_move = self.update.is_due("targets")
        self._measured = {}
        try:
            values = self.update(lambda names: self._gradients(minibatch, names), progress)
        except NonFiniteError as error:
            raise self._explained(error, minibatch) from error
        if targets_move:
            self.domain.update_targets()
        self._means.add({**values, **self._measured})

    @torch.no_grad()
    def _explained(self, error: NonFiniteError, minibatch: Batch) -> UserError:
        """Save the minibatch, scored once more to see which fields are not finite."""
        pieces = self.domain.microbatches(minibatch)
        scored = (self.domain.score(piece, self.method.differentiates(error.names)) for piece in pieces)
        broken = next((piece for piece in scored if nonfinite_values(piece)), minibatch)
        return report_nonfinite(self.folder, self.iteration, error, minibatch, broken)

    def _gradients(self, minibatch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """The update's closure: gradients of the named losses, accumulated over micro-batches.

        Diagnostics and adaptive coefficients look at the last micro-batch.
        """
        totals: dict[str, Tensor] = {}
        need = self.method.differentiates(names)
        for piece in self.domain.microbatches(minibatch):
            scored = self._at_start(self.domain.score(piece, need))
            losses = self.method.losses(scored, names)
            first, *others = losses.values()
            sum(others, start=first).backward()
            for name, loss in losses.items():
                totals[name] = totals[name] + loss.detach() if name in totals else loss.detach()
        if "policy" in names:
            self._measured = policy_diagnostics(scored, self.method.clip_range)
            self.method.observe(scored)
            self._unmoved = False
        return totals

    def _at_start(self, scored: Batch) -> Batch:
        """Before the policy's first step on a batch its `logp` is `old_logp`, and tells it from the sampler."""
        if self._unmoved and "logp" in scored:
            if "behavior_logp" in scored:
                self._engine_log_ratios.append(engine_log_ratios(scored, scored.logp))
            if self._takes_old_logp_from_logp:
                return scored.replace(old_logp=scored.logp.detach())
        return scored

    def _engine_mismatch(self, batch: Batch) -> dict[str, Tensor]:
        """How far the sampler is from the policy, over the whole batch or, without `old_logp`, its first minibatch."""
        if "old_logp" in batch:
            return engine_mismatch(engine_log_ratios(batch, batch.old_logp))
        return engine_mismatch(torch.cat(self._engine_log_ratios)) if self._engine_log_ratios else {}

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        info = self.domain.info
        by = "group" if info.groups_share_work else "row"
        if self.method.objective.level == "pair":
            by = "pair"
        elif not self.method.by_row and info.independent_decisions:
            by = "decision"
        return minibatches(
            batch,
            by=by,
            parts=self.schedule.minibatches,
            epochs=self.schedule.epochs,
            generator=self._generator,
        )

    def _refresh_anchors(self) -> None:
        for name, rule in self.method.anchors.items():
            every = rule.get("every")
            if self.iteration > 0 and every and self.iteration % int(every) == 0:
                self.domain.copy_policy(name, decay=float(rule.get("decay", 0.0)))

    def _report(self, before: float, now: float) -> None:
        done = now >= 1.0
        if done or _crossed(before, now, self.schedule.logs):
            self._log({**self._means.take(), **_floats(self.method.coefficients(now))})
        if done or _crossed(before, now, self.schedule.evaluations):
            self._evaluate()
        if not done and _crossed(before, now, self.schedule.checkpoints):
            self.checkpoint()

    def _evaluate(self) -> None:
        with self.update.averaged_weights():
            result = self.domain.evaluate(self.schedule.evaluation_episodes)
        if not math.isfinite(result["score"]):
            raise UserError(
                f"iteration {self.iteration}: the evaluation's score is {result['score']}; the environment or verifier "
                f"returned a reward that is no number"
            )
        self.scores.append(result["score"])
        self._log({f"eval/{name}": value for name, value in result.items()})

    def _log(self, metrics: Mapping[str, float]) -> None:
        record = {"step": self.iteration, "seconds": self.seconds, "samples": self.source.samples, **metrics}
        self._metrics.write(record)
        self.progress_sink.advance(self.iteration, self.progress, record)

    def checkpoint(self) -> None:
        """Save everything needed to continue bit for bit, unless that is saved already."""
        if self._saved == self.iteration:
            return
        self._metrics.sync()
        write_checkpoint(self.folder, self.iteration, self.state_dict())
        self._saved = self.iteration

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, parts, source, generators and counters."""
        return {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "scores": self.scores,
            "lines": self._metrics.lines,
            "generator": self._generator.get_state(),
            "generators": generators.state(),
            "domain": self.domain.state_dict(),
            "method": self.method.state_dict(),
            "source": self.source.state_dict(),
            "update": self.update.state_dict(),
            "means": self._means.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; later lines of the metrics file are cut off."""
        self.iteration, self.seconds = int(state["iteration"]), float(state["seconds"])
        self._saved = self.iteration
        self.scores = list(state["scores"])
        self._metrics.cut(int(state["lines"]))
        self._generator.set_state(state["generator"])
        generators.restore(state["generators"])
        self.domain.load_state_dict(state["domain"])
        self.method.load_state_dict(state["method"])
        self.source.load_state_dict(state["source"])
        self.update.load_state_dict(state["update"])
        self._means.load_state_dict(state["means"])


def _of_batch(batch: Batch) -> dict[str, Tensor | float]:
    """Mean score, components of the reward and length of a batch's rows, where it has them."""
    components = batch.rewards.items() if "rewards" in batch else ()
    found: dict[str, Tensor | float] = {
        f"train/{name}": values.float().mean() for name, values in components if values.dim() == 1
    }
    if "score" in batch:
        found["train/score"] = batch.score.float().mean()
    if batch.mask.shape[1] > 1:
        found["train/length"] = batch.mask.float().sum(1).mean()
    return found


def _crossed(before: float, now: float, times: int) -> bool:
    """Whether one of `times` equal marks of the budget lies in (before, now]."""
    return times > 0 and int(before * times) != int(now * times)


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
