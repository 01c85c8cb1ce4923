"""Write the table of docs/benchmarks/both_domains.json into docs/benchmarks.md."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"


def table(rows: list[dict[str, Any]]) -> str:
    """A row per method, a column per domain: mean rise (smallest to largest), mean seconds."""
    lines = ["| method | control | seconds | language | seconds |", "|---|---|---|---|---|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [f"`{method}`"]
        for domain, digits in (("control", 0), ("llm", 3)):
            chosen = [row for row in rows if (row["method"], row["domain"]) == (method, domain)]
            rises = [row["score_end"] - row["score_start"] for row in chosen]
            shown = [f"{value:.{digits}f}" for value in (statistics.mean(rises), min(rises), max(rises))]
            seconds = statistics.mean(row["seconds"] for row in chosen)
            cells += [f"{shown[0]} ({shown[1]} to {shown[2]})", f"{seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the markers."""
    page = DOCS / "benchmarks.md"
    rows = json.loads((DOCS / "benchmarks" / "both_domains.json").read_text())
    order = sorted({row["method"] for row in rows})
    rows.sort(key=lambda row: order.index(row["method"]))
    between = r"(<!-- both: begin -->\n).*?(<!-- both: end -->)"
    page.write_text(re.sub(between, lambda m: m[1] + table(rows) + "\n" + m[2], page.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
