"""D4RL datasets: reading and writing the HDF5 layout, and finding or downloading the public files by name."""

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from unirl.control.data.transitions import Bools, Transitions, as_float32, check_finite, chunks
from unirl.errors import UserError, unknown

ADDRESS = "http://rail.eecs.berkeley.edu/datasets/offline_rl"  # as in d4rl/infos.py
MEMMAP_ABOVE = 2_000_000_000

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_KEYS = (*_REQUIRED, "timeouts", "next_observations")
_TIMEOUT_SECONDS = 30.0

Allocate = Callable[[str, tuple[int, ...], Any], Any]


def _public_files() -> dict[str, str]:
    """Dataset name -> path below `ADDRESS`, the regularities of d4rl/infos.py."""
    files: dict[str, str] = {}
    for env in ("halfcheetah", "hopper", "walker2d", "ant"):
        for kind in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            stem = f"{env}_{kind.replace('-', '_')}"
            files |= {f"{env}-{kind}-v{v}": f"gym_mujoco_v{v}/{stem}-v{v}.hdf5" for v in (1, 2)}
    for env in ("pen", "hammer", "relocate", "door"):
        files |= {f"{env}-{kind}-v1": f"hand_dapg_v1/{env}-{kind}-v1.hdf5" for kind in ("human", "expert", "cloned")}
    for size in ("umaze", "medium", "large"):
        files[f"maze2d-{size}-v1"] = f"maze2d/maze2d-{size}-sparse-v1.hdf5"
        files[f"maze2d-{size}-dense-v1"] = f"maze2d/maze2d-{size}-dense-v1.hdf5"
    for name, maze, starts, goals in (
        ("umaze", "u-maze", False, False),
        ("umaze-diverse", "u-maze", True, True),
        ("medium-play", "big-maze", True, False),
        ("medium-diverse", "big-maze", True, True),
        ("large-play", "hardest-maze", True, False),
        ("large-diverse", "hardest-maze", True, True),
    ):
        stem = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse"
        files[f"antmaze-{name}-v0"] = f"ant_maze_new/{stem}.hdf5"
        files[f"antmaze-{name}-v2"] = f"ant_maze_v2/{stem}_fixed.hdf5"
    files["kitchen-complete-v0"] = "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    files["kitchen-partial-v0"] = "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5"
    files["kitchen-mixed-v0"] = "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"
    return files


PUBLIC_FILES = _public_files()


def find_d4rl(name: str) -> Path:
    """The public file of a dataset name (`hopper-medium-v2`), downloaded where it is not there yet.

    Looks in `$D4RL_DATASET_DIR`, else `~/.d4rl/datasets`, as D4RL does. Raises `UserError` for an unknown name and
    where the download fails.
    """
    if name not in PUBLIC_FILES:
        raise unknown("D4RL dataset", name, PUBLIC_FILES)
    folder = Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets").expanduser()
    target = folder / Path(PUBLIC_FILES[name]).name
    if not target.is_file():
        _download(f"{ADDRESS}/{PUBLIC_FILES[name]}", target)
    return target


def _download(address: str, target: Path) -> None:
    """Fetch a file under a temporary name, check its size and rename it."""
    advice = f"download it elsewhere and put it at {target} (or set D4RL_DATASET_DIR)"
    part: Path | None = None
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as response:
            target.parent.mkdir(parents=True, exist_ok=True)
            expected = int(response.headers.get("Content-Length") or 0)
            with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
                part = Path(file.name)
                _copy(response, file, target.name, expected)
        received = part.stat().st_size
        if expected and received != expected:
            raise UserError(f"{address} broke off after {received:,} of {expected:,} bytes; try again, or {advice}")
        part.replace(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download {address} ({reason}); {advice}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _copy(response: BinaryIO, file: Any, name: str, size: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(name, total=size or None)
        while block := response.read(1 << 20):
            file.write(block)
            progress.advance(bar, len(block))


def read_d4rl(
    path: Path | str, memmap_above: int = MEMMAP_ABOVE, cache: Path | None = None, rewards: bool = True
) -> Transitions:
    """Read a file of D4RL's layout.

    Keys: `observations`, `actions`, `rewards`, `terminals`, and at least one of `timeouts` and `next_observations`.
    Where `next_observations` is absent it is the next row's observation; the last row of an episode that did not
    terminate is dropped, because its next observation was not recorded, and the row before it becomes the cut. Where
    `timeouts` is absent an episode ends where an observation does not continue the row before. With `rewards` false
    they may be absent too, and are then 0.

    Data above `memmap_above` bytes is unpacked once into `cache` (default `$XDG_CACHE_HOME/unirl/d4rl`, else
    `~/.cache/unirl/d4rl`) and memory-mapped, copy on write. Raises `UserError` for a missing, truncated or foreign
    file, a missing key, arrays that do not fit together and numbers that are not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"data file {path} does not exist (task.data= takes a D4RL-layout .hdf5 file)")
    try:
        with h5py.File(path, "r") as file:
            _check_layout(file, path, rewards)
            size = sum(file[key].size * 4 for key in ("observations", "actions")) * 2
            if size <= memmap_above:
                return _read(file, path.name, lambda _, shape, kind: np.empty(shape, kind))
            return _read_mapped(file, path, cache)
    except OSError as error:
        raise UserError(f"cannot read {path} ({_first_line(error)}); is it a complete HDF5 file?") from error


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]


def _check_layout(file: h5py.File, path: Path, rewards: bool) -> None:
    missing = [key for key in _REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
    if "timeouts" not in file and "next_observations" not in file:
        missing.append("timeouts")
    if not rewards and "rewards" in missing:
        missing.remove("rewards")
    if missing == ["rewards"]:
        raise UserError(
            f"{path.name} records no rewards, which this method learns from; imitation (method=bc, recoil, smodice, "
            "iq_learn_offline) does without"
        )
    if missing:
        found = ", ".join(sorted(file)) or "nothing"
        raise UserError(f"{path.name}: key '{missing[0]}' is missing, D4RL's layout has it; the file holds {found}")
    present = [key for key in _KEYS if key in file]
    for key in present:
        if not isinstance(file[key], h5py.Dataset) or not file[key].shape:  # a group, one number, or nothing
            raise UserError(f"{path.name}: {key} is no array; one entry for each row is needed")
    count = file["observations"].shape[0]
    if count == 0:
        raise UserError(f"{path.name} holds no transitions")
    for key in present:
        if file[key].shape[0] != count:
            raise UserError(f"{path.name}: {key} has {file[key].shape[0]:,} rows, observations has {count:,}")
        if file[key].dtype.kind not in "biuf":
            raise UserError(f"{path.name}: {key} are not numbers but {file[key].dtype}")
        if key in ("rewards", "terminals", "timeouts") and file[key].size != count:
            raise UserError(f"{path.name}: {key} has shape {file[key].shape}; one number for each row is needed")
    for key in ("observations", "actions"):
        if file[key].ndim != 2:
            raise UserError(f"{path.name}: {key} has shape {file[key].shape}; [rows, dimensions] is needed")
    size, following = file["observations"].shape[1], file.get("next_observations", file["observations"]).shape[1:]
    if following != (size,):
        raise UserError(f"{path.name}: next_observations have shape {following}, observations ({size},)")


def _read(file: h5py.File, where: str, allocate: Allocate) -> Transitions:
    """Copy the arrays chunk by chunk into what `allocate(name, shape, dtype)` returns, checking as it goes."""
    terminals, timeouts, keep = _boundaries(file)
    kept = int(keep.sum())
    sizes = {"observations": file["observations"].shape[1], "actions": file["actions"].shape[1]}
    out = {
        "observations": allocate("observations", (kept, sizes["observations"]), np.float32),
        "actions": allocate("actions", (kept, sizes["actions"]), np.float32),
        "rewards": allocate("rewards", (kept,), np.float32),
        "next_observations": allocate("next_observations", (kept, sizes["observations"]), np.float32),
    }
    position = 0
    for rows in chunks(len(keep)):
        chosen = keep[rows]
        until = position + int(chosen.sum())
        for key, target in out.items():
            values = _values(file, key, rows)
            check_finite(values, key.removesuffix("s"), where, rows.start)
            target[position:until] = values[chosen]
        position = until
    flags = {"terminals": terminals[keep], "timeouts": timeouts[keep]}
    for key, flag in flags.items():
        out[key] = allocate(key, flag.shape, np.bool_)
        out[key][:] = flag
    return Transitions(**out)


def _values(file: h5py.File, key: str, rows: slice) -> Any:
    """A chunk of a key as float32; `next_observations` from the following rows where it was not recorded."""
    if key == "rewards" and key not in file:
        return np.zeros(rows.stop - rows.start, dtype=np.float32)
    if key == "rewards":
        return as_float32(file[key][rows].reshape(-1))
    if key in file:
        return as_float32(file[key][rows])
    after = as_float32(file["observations"][rows.start + 1 : rows.stop + 1])
    if len(after) < rows.stop - rows.start:  # the last row of all: its next observation is unknown
        after = np.concatenate([after, as_float32(file["observations"][-1:])])
    return after


def _boundaries(file: h5py.File) -> tuple[Bools, Bools, Bools]:
    """Terminals, timeouts (not set where terminal), and which rows can be used, [M] each."""
    terminals = _flags(file, "terminals")
    timeouts = _flags(file, "timeouts") if "timeouts" in file else _discontinuities(file)
    timeouts &= ~terminals
    keep = np.ones_like(terminals)
    if "next_observations" not in file:
        keep = ~timeouts
        keep[-1] = terminals[-1]
        cut = np.flatnonzero(~keep)
        cut = cut[cut > 0] - 1
        timeouts[cut] = ~terminals[cut]
    if not keep.any():
        raise UserError("no transition can be used: every episode has one row and no next observation")
    return terminals, timeouts, keep


def _flags(file: h5py.File, key: str) -> Bools:
    """A key as one flag for each row; raises `UserError` for a number other than 0 and 1."""
    values = file[key][:].reshape(-1)
    what, where = key.removesuffix("s"), Path(file.filename).name
    check_finite(values, what, where)
    flags: Bools = values.astype(bool)
    if (values != flags).any():
        row = int(np.argmax(values != flags))
        raise UserError(f"{where} row {row:,}: {what} is {values[row]:g}; 0 or 1 is needed")
    return flags


def _discontinuities(file: h5py.File) -> Bools:
    """Rows whose next observation is not the observation of the following row."""
    count = file["observations"].shape[0]
    ends = np.ones(count, dtype=bool)
    for rows in chunks(count - 1):
        following = file["observations"][rows.start + 1 : rows.stop + 1]
        ends[rows] = (file["next_observations"][rows] != following).any(-1)
    return ends


def _read_mapped(file: h5py.File, path: Path, cache: Path | None) -> Transitions:
    """Unpack into `.npy` files in a folder named after the file's contents, once, and map them."""
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unirl" / "d4rl"
    status = path.stat()
    identity = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    folder = base / f"{path.stem}-{sha256(identity.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        unpacking = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=base))
        try:
            _read(file, path.name, lambda key, shape, kind: _new_map(unpacking / f"{key}.npy", shape, kind))
            unpacking.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)
    keys = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    return Transitions(**{key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in keys})


def _new_map(path: Path, shape: tuple[int, ...], kind: Any) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def write_d4rl(data: Transitions, path: Path | str) -> Path:
    """Write all six keys of D4RL's layout (float32 and bool, gzip), atomically. Returns the path."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for key in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
                file.create_dataset(key, data=getattr(data, key), compression="gzip")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {_first_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
