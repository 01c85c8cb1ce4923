"""Files of preferences: each reader yields `PairRecord`s, text only, with nothing tokenised."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirl.errors import UserError
from unirl.registry import register

Messages = list[dict[str, str]]
Text = str | Messages

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class PairRecord:
    """A prompt and two answers, of which `chosen` was preferred: all strings, or all lists of {role, content}."""

    prompt: Text
    chosen: Text
    rejected: Text


@register("pair_reader", "jsonl")
@dataclass(frozen=True)
class JsonLines:
    """Preferences as JSON lines or a JSON array (`.jsonl`, `.json`, either with `.gz`), plain or conversational.

    `prompt`, `chosen`, `rejected` name the columns: strings, or lists of {role, content}. With `prompt=None` the prompt
    is what `chosen` and `rejected` share: their first messages, or, of strings, the first words. These are the
    preference formats of TRL. Raises `UserError` with file and line for a line that is not JSON, lacks a column, or
    holds something else than text.
    """

    path: str
    prompt: str | None = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def __call__(self) -> Iterator[PairRecord]:
        """Every record of the file, in order."""
        for where, row in _json_rows(self.path):
            yield record_of_columns(row, self.prompt, self.chosen, self.rejected, where)


@register("pair_reader", "hh")
@dataclass(frozen=True)
class HumanAssistant:
    r"""Whole dialogues ``\n\nHuman: ... \n\nAssistant: ...`` under `chosen` and `rejected` (Bai et al. 2022's files).

    The shared turns become the prompt (messages of `user` and `assistant`), the last assistant turn of each the answer,
    [one message]. Consecutive turns of one speaker are joined by a blank line first, because chat templates want them
    to alternate. Raises `UserError` with file and line for anything else.
    """

    path: str

    def __call__(self) -> Iterator[PairRecord]:
        """Every record of the file, in order."""
        for where, row in _json_rows(self.path):
            chosen, rejected = (_dialogue(_column(row, name, where), name, where) for name in ("chosen", "rejected"))
            if chosen[:-1] != rejected[:-1] or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
                raise UserError(f"{where}: the two dialogues must differ in their last assistant turn only")
            yield PairRecord(chosen[:-1], chosen[-1:], rejected[-1:])


@register("pair_reader", "hub")
@dataclass(frozen=True)
class Hub:
    """Preferences of a dataset of the Hugging Face hub, or of a local folder `datasets` can load; columns as `jsonl`.

    Raises `UserError` if `datasets` is not installed or has no such dataset or split.
    """

    id: str
    split: str = "train"
    prompt: str | None = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def __call__(self) -> Iterator[PairRecord]:
        """Every record of the split, in order."""
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise UserError("pair_reader 'hub' needs the package `datasets`: pip install 'unirl[llm]'") from error
        try:
            rows = datasets.load_dataset(self.id, split=self.split)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load dataset '{self.id}', split '{self.split}': {error}") from error
        for number, row in enumerate(rows):
            where = f"{self.id} row {number}"
            yield record_of_columns(row, self.prompt, self.chosen, self.rejected, where)


def record_of_columns(row: dict[str, Any], prompt: str | None, chosen: str, rejected: str, where: str) -> PairRecord:
    """The record in these columns of a row; `where` begins the error's line. `prompt=None`: what the two share."""
    first, second = _column(row, chosen, where), _column(row, rejected, where)
    if prompt is not None:
        given = _column(row, prompt, where, hint="; with prompt=null it is what chosen and rejected share")
        if len({type(given), type(first), type(second)}) > 1:
            raise UserError(f"{where}: '{prompt}', '{chosen}', '{rejected}' must all be strings or all be messages")
        return PairRecord(given, first, second)
    if isinstance(first, str) and isinstance(second, str):
        return _split(first, second, _shared_words(first, second))
    if isinstance(first, list) and isinstance(second, list):
        return _split(first, second, _shared(first, second, most=min(len(first), len(second)) - 1))
    raise UserError(f"{where}: '{chosen}' and '{rejected}' must both be strings or both be messages")


def _split(first: Any, second: Any, at: int) -> PairRecord:
    return PairRecord(first[:at], first[at:], second[at:])


def _shared(first: Any, second: Any, most: int) -> int:
    """Length of the common prefix, at most `most`."""
    return next((i for i in range(most) if first[i] != second[i]), max(most, 0))


def _shared_words(first: str, second: str) -> int:
    """Length of the common prefix, cut back to before a white space so that no word is split."""
    at = _shared(first, second, min(len(first), len(second)))
    while at > 0 and not any(text[at : at + 1].isspace() for text in (first, second)):
        at -= 1
    return at


def _dialogue(text: Any, name: str, where: str) -> Messages:
    if not isinstance(text, str):
        raise UserError(f"{where}: '{name}' is not a string")
    head, *rest = _SPEAKER.split(text)
    if head.strip() or not rest:
        raise UserError(f"{where}: '{name}' does not begin with a turn of Human or Assistant after two newlines")
    messages: Messages = []
    for speaker, said in zip(rest[::2], rest[1::2], strict=True):
        role, content = _ROLES[speaker], said.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content
        else:
            messages.append({"role": role, "content": content})
    return messages


def _column(row: Any, name: str, where: str, hint: str = "") -> Text:
    if not isinstance(row, dict) or name not in row:
        has = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise UserError(f"{where}: no column '{name}' (it has {has}){hint}")
    value = row[name]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_message(m) for m in value):
        return [{"role": m["role"], "content": m["content"]} for m in value]
    raise UserError(f"{where}: '{name}' must be a string or a list of {{role, content}}")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _json_rows(path: str) -> Iterator[tuple[str, Any]]:
    """(`file line n` for messages, parsed value) of every record; blank lines are passed over."""
    text = _read(Path(path))
    if text.lstrip().startswith("["):
        for number, row in enumerate(_parse(text, path), 1):
            yield f"{path} record {number}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path} line {number}"
            yield where, _parse(line, where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as {'gzipped ' * (path.suffix == '.gz')}UTF-8 ({error})") from error
