"""GRPO without a KL term on a tiny language model, by TRL: one optimizer step per 64 fresh responses.

Against TRL's defaults: float32 (bfloat16 is its default, which most CPUs only emulate) and no gradient checkpointing
(which would cost it a second forward pass). With one step per generation it needs no log-probabilities before the
update, and computes none.

Arguments: iterations per chunk, the pieces in which the 64 responses go through the model in the update (its gradient
accumulation; with a large vocabulary it is fastest in four), and the size of the vocabulary.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tiny_folder
from datasets import Dataset
from pacer import Pacer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

WARM_UP = 2


class Ticks(TrainerCallback):
    """Tells the pacer of every optimizer step."""

    def __init__(self, pacer: Pacer, files: tempfile.TemporaryDirectory[str]) -> None:
        self._pacer, self._files = pacer, files

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP:
            self._files.cleanup()
            packages = ("trl", "torch", "transformers")
            self._pacer.ready(**{package: version(package) for package in packages})
        elif state.global_step > WARM_UP:
            self._pacer.tick(tiny_folder.ROWS * tiny_folder.NEW_TOKENS)


def main() -> None:
    pacer = Pacer(int(sys.argv[1]) * tiny_folder.ROWS * tiny_folder.NEW_TOKENS)
    pieces, vocabulary = int(sys.argv[2]), int(sys.argv[3])
    files = tempfile.TemporaryDirectory()
    name = files.name
    tiny_folder.write(Path(name), vocabulary)
    config = GRPOConfig(
        output_dir=f"{name}/run",
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        per_device_train_batch_size=tiny_folder.ROWS // pieces,
        gradient_accumulation_steps=pieces,
        num_generations=tiny_folder.GROUP,
        max_completion_length=tiny_folder.NEW_TOKENS,
        learning_rate=tiny_folder.LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=tiny_folder.CLIP_NORM,
        loss_type="grpo",
        beta=0.0,
        max_steps=1_000_000,
        report_to=[],
        save_strategy="no",
        logging_steps=1_000,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        name,
        reward_funcs=tiny_folder.reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in tiny_folder.prompts(vocabulary)]),
        callbacks=[Ticks(pacer, files)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
