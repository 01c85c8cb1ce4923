"""Record a policy as an mp4 video."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from unirl.control.data.collect import PolicyFunction
from unirl.control.envs import Array, Env, make_env
from unirl.errors import UserError

_USUAL_RATE = 30.0


def record(
    env_id: str,
    act: PolicyFunction,
    out_path: Path | str,
    *,
    episodes: int = 1,
    seed: int = 0,
    width: int = 480,
    height: int = 480,
    env_kwargs: Mapping[str, Any] | None = None,
    perturb: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
) -> Path:
    """Play `episodes` with `act` (observations [B, O] -> actions [B, A]) and write an mp4. Returns its path.

    MuJoCo renders off-screen through EGL unless `MUJOCO_GL` says otherwise. One frame per environment step, at the
    environment's own rate; `max_steps` cuts every episode. `width` and `height` (even, for H.264) hold for MuJoCo;
    other environments choose their own size. Raises `UserError` where rendering off-screen does not work and where the
    file cannot be written.
    """
    out = Path(out_path).expanduser()
    if width % 2 or height % 2:
        raise UserError(f"a video of {width}x{height} cannot be encoded: width and height must be even")
    if out.suffix != ".mp4":
        raise UserError(f"video file {out} must end in .mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MUJOCO_GL", "egl")
    with closing(
        _environment({"env": env_id, "env_kwargs": env_kwargs, "perturb": perturb}, width, height)
    ) as environment:
        rate = float(environment.metadata.get("render_fps") or _USUAL_RATE)
        frames = _frames(environment, act, episodes, seed, max_steps)
        first = next(frames)  # rendering fails here, before a file is made
        _write(out, first, frames, rate)
    return out


def _environment(task: Mapping[str, Any], width: int, height: int) -> Env:
    with closing(make_env(task)) as plain:
        size = {"width": width, "height": height} if isinstance(plain.unwrapped, MujocoEnv) else {}
    return make_env(task, render_mode="rgb_array", **size)


def _frames(environment: Env, act: PolicyFunction, episodes: int, seed: int, max_steps: int | None) -> Iterator[Array]:
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed + episode)
        yield _image(environment)
        step, over = 0, False
        while not over and (max_steps is None or step < max_steps):
            observation, _, terminated, truncated, _ = environment.step(act(observation[None])[0])
            yield _image(environment)
            step, over = step + 1, terminated or truncated


def _image(environment: Env) -> Array:
    try:
        image = environment.render()
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"cannot render: {error}") from error
    except Exception as error:  # EGL, OSMesa, GLFW and PyOpenGL raise errors of their own
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot render off-screen with MUJOCO_GL={os.environ['MUJOCO_GL']} ({reason}); "
            "install an EGL driver (libegl1), or set MUJOCO_GL=osmesa with libosmesa6 installed"
        ) from error
    return np.ascontiguousarray(image)


def _write(out: Path, first: Array, rest: Iterator[Array], rate: float) -> None:
    height, width = first.shape[:2]
    temporary = out.with_name(f".{out.stem}.part.mp4")
    try:
        writer = imageio_ffmpeg.write_frames(str(temporary), (width, height), fps=rate, macro_block_size=2)
        with closing(writer):
            writer.send(None)
            writer.send(first)
            for frame in rest:
                writer.send(frame)
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"cannot write the video {out}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
