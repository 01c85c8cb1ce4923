"""The measured comparisons as `results.json` and, for people, `results.md`."""

import json
from pathlib import Path
from typing import Any

HEAD = """# Speed, measured

Two worker processes take turns on the same pinned core (GRPO: both cores), chunk by chunk; a ratio compares two chunks
that followed each other, and the table shows the median ratio with its quartiles. Speeds depend on the machine and on
its neighbours, the ratios hardly do. `make bench` measures again and writes this page; what is compared stands in
`benchmarks/run.py`.

| comparison | unit | unirl | peer | ratio (quartiles) | target | peak memory, MB | pairs |
|---|---|---|---|---|---|---|---|
"""


def write_table(folder: Path, result: dict[str, Any]) -> None:
    """Put one result among the stored ones, and write both files."""
    store = folder / "results.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    results[result["benchmark"]] = result
    store.write_text(json.dumps(results, indent=1) + "\n")
    rows = "".join(_row(each) for each in results.values())
    (folder / "results.md").write_text(HEAD + rows + "\n" + _versions(results))


def _row(result: dict[str, Any]) -> str:
    low, high = result["ratio_quartiles"]
    target = "" if result["target"] is None else f"{result['target']}"
    memory = f"{result['peak_mb'][0]:.0f} : {result['peak_mb'][1]:.0f}"
    if result["memory_target"] is not None:
        memory += f" = {result['memory_ratio']:.2f} (target {result['memory_target']})"
    return (
        f"| {result['benchmark']} | {result['unit']} | {result['ours']} | {result['peer']} {result['peer_speed']} "
        f"| **{result['ratio']:.2f}** ({low:.2f} to {high:.2f}) | {target} | {memory} | {result['pairs']} |\n"
    )


def _versions(results: dict[str, Any]) -> str:
    found: dict[str, set[str]] = {}
    for result in results.values():
        for side in result["versions"].values():
            for package, version in side.items():
                found.setdefault(package, set()).add(version)
    listed = ", ".join(f"{package} {' and '.join(sorted(versions))}" for package, versions in sorted(found.items()))
    return f"Versions: {listed}.\n"
