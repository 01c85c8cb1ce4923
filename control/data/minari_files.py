"""Minari datasets as transitions, and back."""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from unirl.control.data.scores import reference_scores
from unirl.control.data.transitions import Transitions, as_float32, check_finite, episode_bounds
from unirl.errors import UserError

_ID = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def is_minari_id(name: str) -> bool:
    """Whether `name` has the form of a Minari dataset id, (namespace/)name-vN."""
    return _ID.fullmatch(name) is not None


def read_minari(dataset_id: str) -> Transitions:
    """The local dataset of this id (`$MINARI_DATASETS_PATH`, else `~/.minari/datasets`), downloaded where it is absent.

    Raises `UserError` where the download fails and for observations or actions that are not plain vectors.
    """
    try:
        dataset = minari.load_dataset(dataset_id)
    except FileNotFoundError:
        dataset = _download(dataset_id)
    return _transitions(dataset, dataset_id)


def read_minari_folder(folder: Path) -> Transitions:
    """A Minari dataset that lies in `folder` (the one that holds `data/`). Raises `UserError` where it is none."""
    inner = folder / "data" if (folder / "data").is_dir() else folder
    try:
        dataset = minari.MinariDataset(inner)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"task.data={folder} is a folder, but no Minari dataset lies in it ({error})") from error
    return _transitions(dataset, folder.name)


def _download(dataset_id: str) -> Any:
    try:
        return minari.load_dataset(dataset_id, download=True)
    except Exception as error:  # the hosting back ends raise errors of several libraries
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"the Minari dataset {dataset_id} is not on this machine and cannot be downloaded ({reason}); "
            "`minari list local` shows what is here"
        ) from error


def _transitions(dataset: Any, where: str) -> Transitions:
    """All episodes in order; every episode holds one observation more than it has actions."""
    columns: dict[str, list[Any]] = {key: [] for key in Transitions.__dataclass_fields__}
    for episode in dataset.iterate_episodes():
        observations, actions = _side_by_side(episode.observations), episode.actions
        if not (isinstance(observations, np.ndarray) and observations.ndim == 2 and np.ndim(actions) == 2):
            raise UserError(f"{where}: observations and continuous actions must be plain vectors for control tasks")
        if len(observations) != len(actions) + 1:
            raise UserError(
                f"{where} episode {episode.id}: {len(observations)} observations for {len(actions)} actions"
            )
        cut = np.asarray(episode.truncations, dtype=bool).copy()
        terminal = np.asarray(episode.terminations, dtype=bool)
        cut[-1] |= not terminal[-1]  # some datasets leave both unset in the last row
        columns["observations"].append(observations[:-1])
        columns["actions"].append(actions)
        columns["rewards"].append(episode.rewards)
        columns["next_observations"].append(observations[1:])
        columns["terminals"].append(terminal)
        columns["timeouts"].append(cut & ~terminal)
    if not columns["rewards"]:
        raise UserError(f"{where} holds no episodes")
    flags = ("terminals", "timeouts")
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    typed: dict[str, Any] = {
        key: each.astype(bool) if key in flags else as_float32(each) for key, each in joined.items()
    }
    data = Transitions(**typed)
    for key in ("observations", "actions", "rewards", "next_observations"):
        check_finite(getattr(data, key), key.removesuffix("s"), where)
    return data


def _side_by_side(observations: Any) -> Any:
    """The vectors of a dictionary (goal environments) as one, ordered by name as in gymnasium; others as they are."""
    if isinstance(observations, Mapping) and all(np.ndim(part) == 2 for part in observations.values()):
        return np.concatenate([observations[name] for name in sorted(observations)], axis=1)
    return observations


def write_minari(data: Transitions, dataset_id: str, environment: gym.Env[Any, Any], policy: str = "") -> None:
    """Create a local Minari dataset, with D4RL's reference scores where there are any.

    `policy`: what chose the actions, for the record. Raises `UserError` where the id is taken or malformed.
    """
    if not is_minari_id(dataset_id):
        raise UserError(f"'{dataset_id}' is not a Minari id; it reads (namespace/)name-vN, as hopper/mine-v0")
    random, expert = reference_scores(environment.spec.id if environment.spec else "") or (None, None)
    try:
        with warnings.catch_warnings():  # that author, address and so on could be given too
            warnings.simplefilter("ignore", UserWarning)
            minari.create_dataset_from_buffers(
                dataset_id,
                list(_episodes(data)),
                env=environment,
                algorithm_name=policy or None,
                ref_min_score=random,
                ref_max_score=expert,
                requirements=[f"gymnasium=={gym.__version__}"],
            )
    except ValueError as error:
        raise UserError(f"cannot create the Minari dataset {dataset_id}: {error}") from error


def _episodes(data: Transitions) -> Iterator[EpisodeBuffer]:
    for number, (start, count) in enumerate(zip(*episode_bounds(data.terminals, data.timeouts), strict=True)):
        rows = slice(start, start + count)
        cut = data.timeouts[rows].copy()
        cut[-1] |= not data.terminals[start + count - 1]
        yield EpisodeBuffer(
            id=number,
            observations=np.concatenate([data.observations[rows], data.next_observations[start + count - 1][None]]),
            actions=data.actions[rows],
            rewards=data.rewards[rows],
            terminations=data.terminals[rows],
            truncations=cut,
        )
