"""What a user gets wrong: exit code 2 and one line that says what is wrong and what would be right."""

import re
import shutil

import h5py
import pytest
import yaml
from kill_runs import make_dataset
from transformers import Qwen3Config, Qwen3ForCausalLM

from unirl import cli
from unirl.llm.tiny.tokenizer import character_tokenizer

PPO = ["train", "method=ppo", "task=inverted_pendulum", "iterations=2", "method.source.rows=64"]
BC = ["train", "method=bc", "task=inverted_pendulum", "iterations=2"]
GRPO = ["train", "method=grpo", "task=addition", "iterations=1", "method.source.rows=16", "evaluation_episodes=8"]
HF = [*GRPO, "model=hf"]
GSM8K = ["train", "method=grpo", "task=gsm8k"]
DPO = ["train", "method=dpo", "task=chat_preferences"]
GYM = ["train", "method=ppo", "task=gymnasium"]

CASES = {  # name -> (what is typed; {place}: the fixture's folder), what the line must say
    "out below a file": ([*PPO, "out={place}/file/run"], "cannot write into .*file/run: Not a directory"),
    "out in a read-only place": ([*PPO, "out=/proc/unirl"], "cannot write into /proc/unirl: No such file or directory"),
    "out is a run": ([*PPO, "out={place}/run"], "already holds a run; `unirl resume .*` continues it, out=DIR chooses"),
    "HDF5 cut off": (
        [*BC, "task.data={place}/cut.hdf5"],
        r"cut.hdf5 \(.*truncated file.*\); is it a complete HDF5 file?",
    ),
    "HDF5 is text": ([*BC, "task.data={place}/text.hdf5"], "text.hdf5 .*signature not found"),
    "HDF5 without a key": (
        [*BC, "task.data={place}/no_actions.hdf5"],
        "key 'actions' is missing, .* the file holds next",
    ),
    "HDF5 of another world": (
        ["train", "method=bc", "task=hopper", "task.data={place}/good.hdf5"],
        "have 4 dim.* has 11",
    ),
    "HDF5 is nowhere": ([*BC, "task.data={place}/none.hdf5"], "none.hdf5 does not exist"),
    "JSON line without a key": (
        [*GSM8K, "task.path={place}/keyless.jsonl"],
        "keyless.jsonl line 2: no key 'answer'; it has",
    ),
    "JSON line cut off": ([*GSM8K, "task.path={place}/cut.jsonl"], "cut.jsonl line 2: not JSON"),
    "JSON file empty": ([*GSM8K, "task.path={place}/empty.jsonl"], "there are no records"),
    "pair without a key": ([*DPO, "task.path={place}/pairs.jsonl"], "pairs.jsonl line 2: no column 'rejected'"),
    "gzip cut off": ([*GSM8K, "task.path={place}/cut.jsonl.gz"], "cut.jsonl.gz: cannot be read"),
    "unknown method": (["train", "method=pp0"], r"unknown method 'pp0' \(did you mean ppo\?\)"),
    "unknown task": (["train", "task=hoper"], r"unknown task 'hoper' \(did you mean hopper"),
    "unknown domain": (["train", "domain=controll"], r"unknown domain 'controll' \(did you mean control\?\)"),
    "unknown model": (["train", "model=mpl"], r"unknown model 'mpl' \(did you mean mlp\?\)"),
    "unknown part": ([*PPO, "method.objective=ppo_clp"], r"unknown objective 'ppo_clp' \(did you mean ppo_clip or"),
    "unknown source": ([*PPO, "method.source.name=onlin"], r"unknown source 'onlin' \(did you mean online"),
    "unknown key": ([*PPO, "sede=1"], r"unknown key 'sede' \(did you mean seed\?\)"),
    "unknown update key": (
        [*PPO, "method.update.learning_rate=1"],
        r"unknown update key 'learning_rate' \(known: .*lr",
    ),
    "unknown verifier": ([*GRPO, "task.verifier=nmber"], r"unknown verifier 'nmber' \(did you mean number\?\)"),
    "epochs in words": ([*PPO, "method.update.epochs=two"], "method.update.epochs is 'two'; it must be a whole number"),
    "no minibatches": ([*PPO, "method.update.minibatches=0"], "minibatches is 0; .* at least 1"),
    "seed too large": ([*PPO, "seed=99999999999999999999"], "seed is 9+; it must lie between"),
    "device unknown": ([*PPO, "device=tpuu"], "device=tpuu cannot be used here; `unirl doctor` shows"),
    "method file broken": (["train", "method={place}/broken.yaml"], "broken.yaml is not valid YAML"),
    "method file is nowhere": (["train", "method={place}/none.yaml"], "none.yaml: No such file or directory"),
    "plugin is nowhere": ([*PPO, "plugins=[no_such_module]"], "no module 'no_such_module'"),
    "model without a tokenizer": ([*HF, "model.path={place}/no_tokenizer"], "no_tokenizer' has no tokenizer; save one"),
    "model without weights": ([*HF, "model.path={place}/no_weights"], "no_weights' cannot be loaded"),
    "model weights cut off": ([*HF, "model.path={place}/cut_weights"], "cut_weights' cannot be loaded .*header"),
    "model tokenizer cut off": ([*HF, "model.path={place}/cut_tokenizer"], "cut_tokenizer' cannot be loaded"),
    "model settings cut off": (
        [*HF, "model.path={place}/cut_config"],
        "cut_config' cannot be loaded .* not a valid JSON",
    ),
    "model folder is none": ([*HF, "model.path={place}"], "is not a model folder: it has no config.json"),
    "model folder is nowhere": ([*HF, "model.path=/nowhere"], "there is no model folder '/nowhere'"),
    "model folder is a file": ([*HF, "model.path={place}/file"], "file' is a file; a model is a folder"),
    "environment unknown": ([*GYM, "task.env=Hoper-v5"], r"unknown environment 'Hoper-v5' .*did you mean Hopper-v5"),
    "environment's module is absent": ([*GYM, "task.env=nosuch:Env-v0"], "cannot be made: No module named 'nosuch'"),
    "environment's package is absent": (
        [*GYM, "task.env=Absent/Env-v0"],
        "no environment 'Absent/...' .* install the pack",
    ),
    "environment's arguments": ([*PPO, "task.env_kwargs.foo=1"], "refuses its arguments .*'foo'"),
    "reward function raises": ([*GRPO, "task.reward={place}/reward.py:raises"], "raised ValueError: two lines"),
    "reward is not a number": ([*GRPO, "task.reward={place}/reward.py:nan"], "returned nan for row 0"),
    "reward of a wrong length": (
        [*GRPO, "task.reward={place}/reward.py:short"],
        "returned 1 numbers for 8 completions",
    ),
    "reward returns nothing": (
        [*GRPO, "task.reward={place}/reward.py:nothing"],
        "returned None, not a list of numbers",
    ),
    "model tokenizer without an end": ([*HF, "model.path={place}/endless"], "endless' has no end-of-sequence token"),
    "model smaller than its tokenizer": (
        [*HF, "model.path={place}/smaller"],
        "the tokenizer has 70 tokens, but the model embeds only 64",
    ),
    "fused kernels without a GPU": (
        [*HF, "model.path={place}/whole", "model.liger=true"],
        "model.liger=true needs a GPU: device=cuda, not cpu",
    ),
    "init has no checkpoint": ([*PPO, "init={place}/text.hdf5"], "text.hdf5 has no checkpoint"),
    "init is another model": (
        [*PPO, "model.hidden=[8]", "init={place}/run"],
        "init: the run's policy has another shape",
    ),
    "init is another kind of policy": (
        ["train", "method=sac", "task=inverted_pendulum", "init={place}/run"],
        r"its policy \(method ppo, policy auto\) does not fit this run's \(method sac, policy auto\); give a run with",
    ),
    "resume: another model": (
        ["resume", "{place}/changed_run"],
        r"changed_run does not fit this configuration \(Error",
    ),
    "eval: another model": (["eval", "{place}/changed_run"], "does not fit this configuration .*; was it changed, or"),
    "resume: no run": (["resume", "{place}"], "is not a run folder"),
    "resume: broken config": (["resume", "{place}/broken_run"], "broken_run/config.yaml is not valid YAML"),
    "resume: foreign config": (["resume", "{place}/foreign_run"], "foreign_run/config.yaml .* it has no 'method'"),
    "eval: no checkpoint": (["eval", "{place}/early_run"], "early_run has no checkpoint yet; `unirl resume"),
    "report: foreign config": (["report", "{place}/foreign_run"], "foreign_run is not a readable run folder"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder full of broken things."""
    folder = tmp_path_factory.mktemp("place")
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "cut.jsonl.gz").write_bytes(b"\x1f\x8bxxxx")
    make_dataset(folder / "good.hdf5")
    _cut(folder / "good.hdf5", folder / "cut.hdf5")
    with h5py.File(folder / "good.hdf5") as good, h5py.File(folder / "no_actions.hdf5", "w") as without:
        for key in set(good) - {"actions"}:
            without[key] = good[key][:]
    _models(folder)
    assert cli.main([*PPO, "iterations=1", "evaluation_episodes=1", "--quiet", f"out={folder / 'run'}"]) == 0
    (folder / "early_run").mkdir()
    shutil.copy(folder / "run" / "config.yaml", folder / "early_run")
    changed = shutil.copytree(folder / "run", folder / "changed_run") / "config.yaml"
    config = yaml.safe_load(changed.read_text())
    changed.write_text(yaml.safe_dump(config | {"model": config["model"] | {"hidden": [8]}}))
    return folder


TEXTS = {
    "file": "",
    "text.hdf5": "hello",
    "keyless.jsonl": '{"question": "1+1?", "answer": "2"}\n{"question": "1+2?"}\n',
    "cut.jsonl": '{"question": "1+1?", "answer": "2"}\n{"question": ',
    "empty.jsonl": "",
    "pairs.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n',
    "broken.yaml": "a: [1",
    "broken_run/config.yaml": "a: [1",
    "foreign_run/config.yaml": yaml.safe_dump({"seed": 1}),
    "reward.py": (
        "def raises(prompts, completions, **columns):\n    raise ValueError('two\\nlines')\n"
        "def nan(prompts, completions, **columns):\n    return [float('nan')] * len(prompts)\n"
        "def short(completions):\n    return [0.0]\n"
        "def nothing(completions):\n    pass\n"
    ),
}


def _models(folder):
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    network = Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=2))
    network.save_pretrained(folder / "no_tokenizer")
    whole = folder / "whole"
    shutil.copytree(folder / "no_tokenizer", whole)
    character_tokenizer("0123456789+=").save_pretrained(whole)
    broken = {"cut_weights": "model.safetensors", "cut_tokenizer": "tokenizer.json", "cut_config": "config.json"}
    for name, part in broken.items():
        shutil.copytree(whole, folder / name)
        _cut(whole / part, folder / name / part)
    shutil.copytree(whole, folder / "no_weights")
    (folder / "no_weights" / "model.safetensors").unlink()
    tokenizers = {
        "endless": character_tokenizer("0123"),
        "smaller": character_tokenizer("".join(map(chr, range(0x4E00, 0x4E3F)))),
    }
    tokenizers["endless"].eos_token = None
    for name, tokenizer in tokenizers.items():
        shutil.copytree(folder / "no_tokenizer", folder / name)
        tokenizer.save_pretrained(folder / name)


def _cut(whole, half):
    content = whole.read_bytes()
    half.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("case", CASES)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_2(case, place, tmp_path, capsys):
    words, message = CASES[case]
    words = [word.format(place=place) for word in words]
    if words[0] in ("train", "resume"):
        words.append("--quiet")
    if words[0] == "train":
        out = [] if words[-2].startswith("out=") else [f"out={tmp_path / 'run'}"]
        words += out
    capsys.readouterr()
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"unirl: .*{message}.*\n", error), error


def test_a_world_whose_reward_is_no_number_is_noticed_at_the_first_evaluation(tmp_path, monkeypatch, capsys):
    (tmp_path / "world_of_nan.py").write_text(
        "import gymnasium as gym\n"
        "class Broken(gym.RewardWrapper):\n"
        "    def reward(self, reward):\n"
        "        return float('nan')\n"
        "gym.register('Nan-v0', lambda: Broken(gym.make('InvertedPendulum-v5').unwrapped), max_episode_steps=20)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main([*GYM, "task.env=Nan-v0", "plugins=[world_of_nan]", "iterations=1", "out=run", "--quiet"]) == 2
    assert "iteration 0: the evaluation's score is nan; the environment or verifier" in capsys.readouterr().err
