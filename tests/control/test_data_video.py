import imageio_ffmpeg
import numpy as np
import pytest

from unirl.control.data.video import record
from unirl.errors import UserError


def frames(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def still(observation):
    return np.zeros((len(observation), 3))


def test_a_recorded_hopper_moves(tmp_path):
    path = record("Hopper-v5", still, tmp_path / "new" / "hopper.mp4", width=64, height=48, max_steps=10)
    pictures = frames(path)
    assert pictures[0].shape == (48, 64, 3) and len(pictures) == 11  # the start and one per step
    assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).max() > 20
    assert [file.name for file in path.parent.iterdir()] == ["hopper.mp4"]


def test_without_off_screen_rendering_the_error_says_what_to_do(tmp_path, monkeypatch):
    def refuse(environment):
        raise RuntimeError("no EGL device\nmore lines")

    monkeypatch.setattr("gymnasium.envs.mujoco.MujocoEnv.render", refuse)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(
        UserError, match=r"cannot render off-screen with MUJOCO_GL=egl \(no EGL device\); inst"
    ) as caught:
        record("Hopper-v5", still, tmp_path / "a.mp4", width=64, height=48)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(tmp_path):
    for arguments, words in (
        ({"out_path": tmp_path / "a.gif"}, "must end in .mp4"),
        ({"out_path": tmp_path / "a.mp4", "width": 33}, "width and height must be even"),
        ({"out_path": tmp_path / "a.mp4", "env_id": "Hoper-v5"}, "unknown environment 'Hoper-v5'"),
    ):
        with pytest.raises(UserError, match=words):
            record(**{"env_id": "Hopper-v5", "act": still} | arguments)
