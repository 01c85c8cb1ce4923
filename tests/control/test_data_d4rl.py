import os
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import h5py
import numpy as np
import pytest

from unirl.control.data import d4rl
from unirl.control.data.d4rl import PUBLIC_FILES, find_d4rl, read_d4rl, write_d4rl
from unirl.control.data.transitions import Transitions, episode_bounds
from unirl.errors import UserError

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
REAL = Path(os.environ.get("UNIRL_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data") / "d4rl"


def line(ends, seed=0):
    """Rows whose observation counts up: 0, 1, 2, ...; `ends` maps row -> "terminal" or "timeout"."""
    count = max(ends) + 1
    observations = np.arange(count, dtype=np.float32)[:, None].repeat(2, 1)
    return {
        "observations": observations,
        "actions": np.random.default_rng(seed).uniform(-1, 1, (count, 1)).astype(np.float32),
        "rewards": np.ones(count, dtype=np.float32),
        "next_observations": observations + 1,
        "terminals": np.array([ends.get(row) == "terminal" for row in range(count)]),
        "timeouts": np.array([ends.get(row) == "timeout" for row in range(count)]),
    }


def write(path, arrays, leave_out=()):
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            if key not in leave_out:
                file[key] = values
    return path


def test_writing_then_reading_gives_the_same_transitions(tmp_path):
    data = Transitions(**line({2: "terminal", 6: "timeout"}))
    back = read_d4rl(write_d4rl(data, tmp_path / "new" / "a.hdf5"))
    for key in KEYS:
        np.testing.assert_array_equal(getattr(back, key), getattr(data, key))
    with h5py.File(tmp_path / "new" / "a.hdf5") as file:
        assert {key: file[key].compression for key in KEYS} == dict.fromkeys(KEYS, "gzip")
        assert file["observations"].dtype == np.float32 and file["terminals"].dtype == bool
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.hdf5"]


def test_next_observations_are_derived_within_episodes(tmp_path):
    # rows 0 1 2* | 3 4 5(timeout) | 6 7(file ends): 5 and 7 have no known successor and go; 4 and 6 become the cuts
    arrays = line({2: "terminal", 5: "timeout", 7: ""})
    data = read_d4rl(write(tmp_path / "a.hdf5", arrays, leave_out=["next_observations"]))
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 6]
    assert data.next_observations[[0, 1, 3, 4, 5], 0].tolist() == [1, 2, 4, 5, 7]
    assert data.terminals.tolist() == [False, False, True, False, False, False]
    assert data.timeouts.tolist() == [False, False, False, False, True, True]


def test_derived_next_observations_are_right_across_chunks(tmp_path, monkeypatch):
    arrays = line({4: "terminal", 11: "timeout", 12: "terminal", 20: "terminal"})
    path = write(tmp_path / "a.hdf5", arrays, leave_out=["next_observations"])
    whole = read_d4rl(path)
    monkeypatch.setattr("unirl.control.data.transitions.CHUNK", 3)
    in_chunks = read_d4rl(path)
    for key in KEYS:
        np.testing.assert_array_equal(getattr(in_chunks, key), getattr(whole, key))


def test_missing_timeouts_are_found_where_observations_jump(tmp_path):
    arrays = line({2: "terminal", 8: ""})
    arrays["observations"] = arrays["observations"].copy()
    arrays["observations"][5:] += 10
    arrays["next_observations"] = arrays["observations"] + 1
    data = read_d4rl(write(tmp_path / "a.hdf5", arrays, leave_out=["timeouts"]))
    assert np.flatnonzero(data.timeouts).tolist() == [4, 8]
    assert episode_bounds(data.terminals, data.timeouts)[1].tolist() == [3, 2, 4]


def test_a_row_that_is_both_terminal_and_timeout_counts_as_terminal(tmp_path):
    arrays = line({3: "terminal"})
    arrays["timeouts"][3] = True
    data = read_d4rl(write(tmp_path / "a.hdf5", arrays))
    assert data.terminals[3] and not data.timeouts[3]


def test_rewards_in_a_column_are_flattened(tmp_path):
    arrays = line({3: "terminal"})
    arrays["rewards"], arrays["terminals"] = arrays["rewards"][:, None], arrays["terminals"][:, None]
    assert read_d4rl(write(tmp_path / "a.hdf5", arrays)).rewards.shape == (4,)


def test_large_data_is_memory_mapped_with_equal_contents_and_unpacked_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", line({4: "terminal", 11: "timeout"}))
    small, mapped = read_d4rl(path), read_d4rl(path, memmap_above=10, cache=tmp_path / "cache")
    for key in KEYS:
        assert isinstance(getattr(mapped, key), np.memmap)
        np.testing.assert_array_equal(getattr(mapped, key), getattr(small, key))
    monkeypatch.setattr(d4rl, "_read", None)  # a second unpacking would call it
    again = read_d4rl(path, memmap_above=10, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.actions, small.actions)
    again.actions[0] = 5.0  # copy on write: the file keeps its contents
    assert read_d4rl(path, memmap_above=10, cache=tmp_path / "cache").actions[0] == small.actions[0]


def test_errors_say_in_one_line_what_is_wrong_with_a_file(tmp_path):
    good = write(tmp_path / "good.hdf5", line({3: "terminal"}))
    text, cut, empty = tmp_path / "text.hdf5", tmp_path / "cut.hdf5", tmp_path / "empty.hdf5"
    text.write_text("not a data set")
    cut.write_bytes(good.read_bytes()[:1500])
    write(empty, {key: values[:0] for key, values in line({3: "terminal"}).items()})
    broken = line({9: "terminal"})
    broken["rewards"] = broken["rewards"].copy()
    broken["rewards"][7] = np.nan
    shorter = line({3: "terminal"})
    shorter["actions"] = shorter["actions"][:2]
    flat = line({3: "terminal"})
    flat["actions"] = flat["actions"][:, 0]
    wider = line({3: "terminal"})
    wider["next_observations"] = np.zeros((4, 5))
    for path, words in (
        (write(tmp_path / "wide.hdf5", wider), r"next_observations have shape \(5,\), observations \(2,\)"),
        (tmp_path / "absent.hdf5", "does not exist"),
        (text, "is it a complete HDF5 file?"),
        (cut, "is it a complete HDF5 file?"),
        (empty, "holds no transitions"),
        (write(tmp_path / "key.hdf5", line({3: "terminal"}), ["actions"]), "key 'actions' is missing"),
        (write(tmp_path / "t.hdf5", line({3: "terminal"}), ["timeouts", "next_observations"]), "key 'timeouts' is mis"),
        (write(tmp_path / "nan.hdf5", broken), "nan.hdf5 row 7: reward is not a finite number"),
        (write(tmp_path / "short.hdf5", shorter), "actions has 2 rows, observations has 4"),
        (write(tmp_path / "flat.hdf5", flat), r"actions has shape \(4,\)"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read_d4rl(path)
        assert "\n" not in str(caught.value)


def test_public_names_follow_the_official_list():
    assert PUBLIC_FILES["hopper-medium-v2"] == "gym_mujoco_v2/hopper_medium-v2.hdf5"
    assert PUBLIC_FILES["ant-medium-replay-v2"] == "gym_mujoco_v2/ant_medium_replay-v2.hdf5"
    assert PUBLIC_FILES["pen-human-v1"] == "hand_dapg_v1/pen-human-v1.hdf5"
    assert PUBLIC_FILES["antmaze-large-play-v2"] == (
        "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    )
    with pytest.raises(UserError, match="did you mean hopper-medium-v2"):
        find_d4rl("hopper-medum-v2")


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Point downloads at a local server with the given handler, and the data folder at an empty one."""
    servers = []

    def start(handler):
        servers.append(HTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setattr(d4rl, "ADDRESS", f"http://127.0.0.1:{servers[-1].server_port}")
        monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "datasets"))
        return tmp_path / "datasets"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Stingy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *args):
        pass


def test_a_public_dataset_is_downloaded_once_under_its_public_name(serve, tmp_path):
    remote = tmp_path / "remote" / "gym_mujoco_v2"
    remote.mkdir(parents=True)
    write(remote / "hopper_medium-v2.hdf5", line({3: "terminal"}))
    folder = serve(partial(Quiet, directory=str(tmp_path / "remote")))
    path = find_d4rl("hopper-medium-v2")
    assert path == folder / "hopper_medium-v2.hdf5" and len(read_d4rl(path)) == 4
    assert [p.name for p in folder.iterdir()] == ["hopper_medium-v2.hdf5"]
    (remote / "hopper_medium-v2.hdf5").unlink()
    assert find_d4rl("hopper-medium-v2") == path  # found without the server


def test_a_broken_download_leaves_nothing_behind(serve):
    folder = serve(Stingy)
    with pytest.raises(UserError, match="broke off after 10 of 1,000 bytes"):
        find_d4rl("hopper-medium-v2")
    assert list(folder.iterdir()) == []


def test_without_network_the_error_says_where_to_put_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setattr(d4rl, "ADDRESS", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match=r"put it at .*hopper_medium-v2\.hdf5") as caught:
        find_d4rl("hopper-medium-v2")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded Hopper data is not on this machine (UNIRL_TEST_DATA)")
@pytest.mark.parametrize(
    ("name", "rows", "episodes"),
    [("medium", 100_000, 240), ("medium_replay", 110_000, 824), ("medium_expert", 200_000, 350)],
)
def test_recorded_hopper_files_are_whole(name, rows, episodes):
    data = read_d4rl(REAL / f"hopper_{name}-v5.hdf5")
    starts, lengths = episode_bounds(data.terminals, data.timeouts)
    assert (len(data), len(starts), lengths.max() <= 1000) == (rows, episodes, True)
    inner = ~(data.terminals | data.timeouts)[:-1]
    np.testing.assert_array_equal(data.next_observations[:-1][inner], data.observations[1:][inner])
