"""Reading a user's records: JSON lines, a JSON list, either gzipped, or a dataset of the `datasets` package."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from unirl.errors import UserError

Located: TypeAlias = tuple[str, Mapping[str, Any]]  # where a record stands, for messages, and the record

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def read_records(path: str, keys: Sequence[str], split: str = "train", config: str | None = None) -> list[Located]:
    """Every record of a file (`.jsonl`, `.json`, or these with `.gz`) or of a dataset id, each with where it stands.

    `split` and `config` only matter for a dataset id. Raises `UserError` for a missing file, naming file and line for a
    line that is no JSON object or lacks one of `keys`.
    """
    records = list(_file(Path(path)) if names_a_file(path) else _dataset(path, split, config))
    if not records:
        raise UserError(f"{path}: there are no records in it")
    for where, record in records:
        _check(where, record, keys)
    return records


def names_a_file(path: str) -> bool:
    """Whether `path` is meant to be a file, not the id of a dataset."""
    return Path(path).is_file() or path.endswith(SUFFIXES)


def _file(path: Path) -> Iterator[Located]:
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: known are {', '.join(SUFFIXES)}")
    text = _text(path)
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _list(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if line.strip():
            where = f"{path} line {number}"
            yield where, _json(where, line)


def _text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _list(path: Path, text: str) -> Iterator[Located]:
    value = _json(str(path), text)
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of records, found {type(value).__name__}; one per line is '.jsonl'")
    for number, record in enumerate(value, start=1):
        yield f"{path} record {number}", record


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error


def _check(where: str, record: Any, keys: Sequence[str]) -> None:
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected an object with {', '.join(keys)}, found {type(record).__name__}")
    for key in keys:
        if key not in record:
            raise UserError(f"{where}: no key '{key}'; it has {', '.join(map(str, record)) or 'none'}")


def _dataset(path: str, split: str, config: str | None) -> Iterator[Located]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise UserError(f"there is no file '{path}'; for a dataset id: pip install datasets") from error
    try:
        rows = load_dataset(path, config, split=split)
    except Exception as error:  # whatever the hub, the network or the dataset's own files raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"'{path}' is neither a file nor a dataset that can be loaded: {reason}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} {split} record {number}", row
