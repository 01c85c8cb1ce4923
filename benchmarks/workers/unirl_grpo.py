"""GRPO without a KL term on a tiny language model, by unirl: one optimizer step per 64 fresh responses.

Arguments: iterations per chunk, the pieces in which the 64 responses go through the model in the update, and the
vocabulary's size.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import tiny_folder
from pacer import Pacer

from unirl.config import compose
from unirl.run import build

WARM_UP = 2


def overrides(folder: Path, pieces: int) -> list[str]:
    """The configuration, equal to the peer's: no reference model, AdamW, one step per generation."""
    tokens = tiny_folder.ROWS // pieces * (tiny_folder.PROMPT_TOKENS + tiny_folder.NEW_TOKENS)
    return [
        "method=grpo", "method.regularizers=[]", "method.anchors=null",
        f"method.source.rows={tiny_folder.ROWS}", f"method.source.group_size={tiny_folder.GROUP}",
        "method.update.epochs=1", "method.update.minibatches=1", "method.update.weight_decay=0.0",
        f"method.update.lr={tiny_folder.LEARNING_RATE}", f"method.update.clip_norm={tiny_folder.CLIP_NORM}",
        "model=hf", f"model.path={folder}", "model.lora=null", f"domain.token_budget={tokens}",
        "task=gsm8k", f"task.path={folder}/prompts.jsonl", "task.prompt='{question}'",
        f"task.reward={Path(tiny_folder.__file__)}:reward", f"task.max_new_tokens={tiny_folder.NEW_TOKENS}",
        "iterations=1000000", f"out={folder}/run",
    ]  # fmt: skip


def main() -> None:
    pacer = Pacer(int(sys.argv[1]) * tiny_folder.ROWS * tiny_folder.NEW_TOKENS)
    with tempfile.TemporaryDirectory() as name:
        tiny_folder.write(Path(name), int(sys.argv[3]))
        trainer = build(compose(overrides(Path(name), int(sys.argv[2]))), None)
        for _ in range(WARM_UP):
            trainer.iterate()
    pacer.ready(unirl=version("unirl"), torch=version("torch"), transformers=version("transformers"))
    while True:
        trainer.iterate()
        pacer.tick(tiny_folder.ROWS * tiny_folder.NEW_TOKENS)


if __name__ == "__main__":
    main()
