"""Each domain trains where the other's packages are not installed."""

import os
import re
import subprocess
import sys

import pytest

WITHOUT = {
    "control": ("transformers", "peft", "datasets", "tokenizers", "accelerate"),
    "llm": ("gymnasium", "mujoco", "minari", "h5py", "stable_baselines3"),
}
WORDS = {
    "control": ["method=ppo", "task=inverted_pendulum", "samples=256", "method.source.rows=256"],
    "llm": ["method=grpo", "task=addition", "task.pretrain.steps=2", "iterations=1", "method.source.rows=16"],
}
PROGRAMME = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from unirl.cli import main
sys.exit(main({words!r}))
"""


def unirl(blocked, words, tmp_path):
    code = PROGRAMME.format(blocked=blocked, words=words)
    environment = {**os.environ, "UNIRL_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("domain", WITHOUT)
def test_a_domain_trains_without_the_others_packages(domain, tmp_path):
    words = ["train", *WORDS[domain], "evaluations=1", "evaluation_episodes=2", "out=run", "--quiet"]
    done = unirl(WITHOUT[domain], words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(("domain", "extra"), [("control", "llm"), ("llm", "control")])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(domain, extra, tmp_path):
    done = unirl(WITHOUT[domain], ["train", *WORDS[extra], "out=run"], tmp_path)
    assert done.returncode == 2
    assert re.search(rf"pip install .*\[{extra}\]", done.stderr)
    assert done.stderr.count("\n") == 1
