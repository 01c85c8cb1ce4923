"""Write the generated pages: `docs/methods/` from the methods' YAML, `docs/parts/` from the parts' docstrings.

`python docs/generate.py --readme` also renews the table of methods in README.md.
"""

import inspect
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

from docstrings import first_line, markdown, plain, summary

import unirl
from unirl.compare.used_parts import SLOTS, UsedPart, used_parts
from unirl.config import choices, compose, method_config
from unirl.errors import UserError
from unirl.registry import kinds, names, part_class

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- methods: begin -->", "<!-- methods: end -->"
DOMAINS = ("control", "llm")
YES = "yes"
CITATION = re.compile(r".*?\([^()]*\d{4}\)")

KINDS = {  # kind of part -> what a reader should know first
    "advantage": "How much better a decision was than expected. Takes a batch, gives it `advantage` [N, T].",
    "annotator": "Who says which of two rows is better. Takes a batch and pairs [P, 2], gives the probability [P] that "
    "the first is preferred.",
    "coefficient": "How strongly a regularizer counts: the `coef` of an entry under `regularizers`. A plain number is "
    "short for `fixed`.",
    "critic": "What a value function is regressed on. Declares the networks it needs; the domain builds them.",
    "encoder": "How a reward or preference model sees the rows of a batch.",
    "engine": "What samples responses (`domain=llm`): `domain.engine=NAME` or `domain.engine={name: NAME, ...}`.",
    "expert": "Controllers written by hand that demonstrate a task, for offline methods without a dataset.",
    "gradient": "How the gradient of an optimizer step is made from the closure of named losses: "
    "`update: {gradient: NAME}`.",
    "memory": "How a replay source remembers, other than uniformly: `source: {name: replay, memory: {name: ...}}`.",
    "model": "What a method needs beside policy and critics (control); read as `estimate.NAME` or `model.NAME`.",
    "objective": "What the policy is changed towards: a loss per decision [N, T], per row [N] or per pair [P], not "
    "reduced.",
    "pair_reader": "Files of preferences: gives records of a prompt, a chosen and a rejected response.",
    "preference_model": "Models that are fitted to preferences and then take the place of an annotator or a reward.",
    "reduce": "From a loss per decision to one number, with an explicit divisor.",
    "regression": "What a critic pays for a prediction and its target, named by the critic's `loss`; its "
    "hyper-parameters stand beside the critic's own.",
    "regularizer": "A penalty per decision [N, T] that is added to the objective, times its `coef`.",
    "reward": "Changes or fills the score or the reward of a batch, before advantages.",
    "selection": "Which decisions, rows or pairs count, and how much. Takes a batch, fills `weight` or `pairs`.",
    "source": "Where batches come from.",
    "task": "Prompts and what a right answer to them is (`domain=llm`).",
    "verifier": "Called with (completion, reference), gives a number in [0, 1].",
}


@dataclass(frozen=True)
class MethodPage:
    """What a method's page is made of."""

    name: str
    config: Mapping[str, Any]
    text: str

    @property
    def comment(self) -> tuple[str, str]:
        """The comment at the top of the file: what the method is, up to the citation, and the rest."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        text = " ".join(line.lstrip("# ") for line in lines)
        cited = CITATION.match(text)
        return (text[: cited.end()], text[cited.end() :].lstrip(". ")) if cited else (text, "")

    @property
    def domains(self) -> list[str]:
        """Where it runs."""
        return list(self.config.get("domains") or DOMAINS)

    @property
    def entries(self) -> list[int]:
        """The catalogue's numbers."""
        return list(self.config.get("entries") or filter(None, [self.config.get("entry")]))

    @property
    def paper(self) -> str:
        """Title and year."""
        paper = self.config.get("paper") or {}
        return f"{paper['title']} ({paper['year']})" if paper else ""

    @property
    def source(self) -> str:
        """The kind of its source."""
        source = self.config.get("source") or "online"
        return str(source if isinstance(source, str) else source.get("name", "online"))


@cache
def methods() -> tuple[MethodPage, ...]:
    """Every method of the package, by name."""
    folder = Path(str(files("unirl.configs"))) / "method"
    return tuple(MethodPage(n, method_config(n), (folder / f"{n}.yaml").read_text()) for n in choices("method"))


def method_table(link: str = "") -> str:
    """Methods x domains; `link` is a pattern such as `{}.md`."""
    rows = ["| method | control | llm | what it is |", "|---|---|---|---|"]
    for method in methods():
        name = f"[`{method.name}`]({link.format(method.name)})" if link else f"`{method.name}`"
        marks = " | ".join(YES if domain in method.domains else "" for domain in DOMAINS)
        rows.append(f"| {name} | {marks} | {method.comment[0]} |")
    return "\n".join(rows)


def renewed_readme() -> str:
    """README.md with the table of methods as the configurations have it now."""
    before, _, rest = README.read_text().partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    return f"{before}{TABLE_BEGINS}\n{method_table()}\n{TABLE_ENDS}{after}"


def method_page(method: MethodPage) -> str:
    """One method."""
    what, more = method.comment
    notes = str(method.config.get("notes") or "").strip()
    lines = [f"# {method.name}", "", f"{what}.", "", plain(more), "", *_method_facts(method), "", notes, ""]
    lines += ["## Parts", ""]
    lines += ["A batch meets them in this order.", ""]
    for part in used_parts(method.config):
        lines += [*_part_of_method(part), ""]
    lines += ["## Run it", "", "```sh", *_commands(method), "```", ""]
    lines += ["## The file", "", f'```yaml title="configs/method/{method.name}.yaml"', method.text.rstrip(), "```", ""]
    return "\n".join(lines)


def _method_facts(method: MethodPage) -> list[str]:
    facts = {
        "Paper": method.paper,
        "Catalogue entry": ", ".join(f"[{number}]" for number in method.entries),
        "Domains": ", ".join(method.domains),
        "Batches from": f"[`{method.source}`](../parts/source.md#{method.source})",
        "Anchors": ", ".join(f"`{name}`" for name in method.config.get("anchors") or {}),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items() if value)]


def _part_of_method(part: UsedPart) -> list[str]:
    settings = ", ".join(f"`{text}`" for text in part.settings_texts) if part.settings else "its defaults"
    if part.kind == "coefficient" and part.name == "fixed":
        return [f"Its coefficient: {settings.replace('value=', '')}."]
    lines = [f"### {part.kind}: {part.name}", ""]
    lines += [f"[`{part.name}`](../parts/{part.kind}.md#{part.name}) with {settings}.", ""]
    return [*lines, summary(part_class(part.kind, part.name).__doc__)]


def _commands(method: MethodPage) -> list[str]:
    lines = [f"unirl train method={method.name} domain={domain}" for domain in method.domains if _composes(domain)]
    recorded = method.source in ("offline", "hybrid") and "default_task" not in method.config
    if recorded and "control" in method.domains:
        lines.append(f"unirl train method={method.name} task=d4rl/hopper-medium-v2   # needs the data file")
    return lines


@cache
def _composes(domain: str) -> bool:
    """Whether the domain's default task exists in this installation."""
    try:
        compose([f"domain={domain}"])
    except UserError:
        return False
    return True


def kind_page(kind: str) -> str:
    """All parts of a kind."""
    found = names(kind)
    lines = [f"# {kind}", "", KINDS.get(kind, ""), "", "| name | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{name}) | {first_line(part_class(kind, name).__doc__)} |" for name in found]
    for name in found:
        lines += ["", f"## {name}", "", *_part(kind, name)]
    return "\n".join([*lines, ""])


def _part(kind: str, name: str) -> list[str]:
    cls = part_class(kind, name)
    used = [f"[`{method}`](../methods/{method}.md)" for method in _users().get((kind, name), ())]
    facts = {
        "Only in": ", ".join(sorted(getattr(cls, "domains", ()))),
        "Used by": ", ".join(used),
        "Source": f"`{_source_file(cls)}`",
    }
    lines = ["```python", _signature(kind, name, cls), "```", "", markdown(cls.__doc__), ""]
    shown = " &nbsp;·&nbsp; ".join(f"{label}: {value}" for label, value in facts.items() if value)
    return [*lines, shown, "{: .facts }"]


def _signature(kind: str, name: str, cls: type) -> str:
    """`make("objective", "ppo_clip", clip_low=0.2)`, one hyper-parameter per line where they are many."""
    given = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = "..." if parameter.default is parameter.empty else _default(parameter.default)
        given.append(f"{parameter.name}={value}")
    arguments = [f'"{kind}", "{name}"', *given]
    line = f"make({', '.join(arguments)})"
    if len(line) <= 90:
        return line
    return "make(\n    " + ",\n    ".join(arguments) + ",\n)"


def _default(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return "..." if "factory" in repr(value) else repr(value)


@cache
def _users() -> dict[tuple[str, str], list[str]]:
    users: dict[tuple[str, str], list[str]] = {}
    for method in methods():
        users.setdefault(("source", method.source), []).append(method.name)
        for part in used_parts(method.config):
            users.setdefault((part.kind, part.name), []).append(method.name)
    return {part: list(dict.fromkeys(users_of)) for part, users_of in users.items()}


def _source_file(cls: type) -> str:
    path = Path(inspect.getfile(cls))
    root = Path(unirl.__file__).parent.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else cls.__module__


def methods_index() -> str:
    """The page that lists all methods."""
    text = (
        "One file each, in `configs/method/`. `unirl methods` prints the same list. The parts that a file names are "
        f"described under [parts](../parts/index.md); the keys {', '.join(f'`{slot}`' for slot in SLOTS)} hold them."
    )
    return f"# Methods\n\n{text}\n\n{method_table('{}.md')}\n"


def parts_index() -> str:
    """The page that lists all kinds of parts."""
    text = (
        "Every part is made by `make(kind, name, **hyper_parameters)` and named in a method's file. `unirl parts KIND`"
    )
    rows = [f"| [{kind}]({kind}.md) | {len(names(kind))} | {KINDS.get(kind, '')} |" for kind in kinds()]
    return "\n".join([f"# Parts\n\n{text} prints them.\n", "| kind | parts | |", "|---|---|---|", *rows, ""])


def write(folder: Path, pages: Mapping[str, str]) -> None:
    """Replace a generated folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)


def main(arguments: Iterable[str]) -> None:
    """Write all generated pages."""
    write(DOCS / "methods", {"index": methods_index(), **{m.name: method_page(m) for m in methods()}})
    write(DOCS / "parts", {"index": parts_index(), **{kind: kind_page(kind) for kind in kinds()}})
    if "--readme" in arguments:
        README.write_text(renewed_readme())


if __name__ == "__main__":
    main(sys.argv[1:])
