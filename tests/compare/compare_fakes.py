"""Run folders with made-up numbers."""

import json
from pathlib import Path
from typing import Any

import yaml

METHOD = {
    "advantage": [{"name": "group", "center": "mean"}],
    "objective": {"name": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28},
    "regularizers": [{"name": "kl", "to": "ref", "coef": 0.04}],
    "reduce": "sequence_mean",
}


def write_run(
    root: Path,
    method: str = "ppo",
    task: str = "hopper",
    domain: str = "control",
    seed: int = 0,
    scores: tuple[float, ...] = (10.0, 20.0, 40.0),
    samples: tuple[int, ...] = (0, 100, 200),
    finished: bool = True,
    normalised: tuple[float, ...] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """`root/<method>/<task>/seed_<seed>` with config.yaml, metrics.jsonl (0.5 s per evaluation) and result.json."""
    folder = root / method / task / f"seed_{seed}"
    folder.mkdir(parents=True)
    content = {
        "method": {"name": method, **METHOD},
        "domain": {"name": domain},
        "task": {"name": task},
        "seed": seed,
        "out": str(folder),
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    lines = []
    for step, (count, score) in enumerate(zip(samples, scores, strict=True)):
        line = {"step": step, "seconds": 0.5 * step, "samples": count, "eval/score": score}
        lines.append(line | ({"eval/normalized_score": normalised[step]} if normalised else {}))
        lines.append({"step": step, "seconds": 0.5 * step, "samples": count, "loss/policy": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        result = {
            "method": method,
            "score_start": scores[0],
            "score_end": scores[-1],
            "samples": samples[-1],
            "sample_unit": "environment steps" if domain == "control" else "generated tokens",
            "seconds": 0.5 * (len(scores) - 1),
        }
        (folder / "result.json").write_text(json.dumps({**result, "versions": {"torch": "2.13"}}))
    return folder
