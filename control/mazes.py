"""A point that walks through a maze towards a goal: the smallest world in which trajectories have to be stitched.

Nothing was ever recorded from the start of the routes `STITCHED` to their ends, but every part of the way was.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from unirl.control.data.transitions import Floats, Transitions
from unirl.control.envs import Array
from unirl.errors import UserError
from unirl.registry import register

LAYOUT = (
    "###########",
    "#.d....b..#",
    "#.#######.#",
    "#a#######.#",
    "#.#######.#",
    "#......f#e#",
    "###########",
)
RECORDED = ("ab", "af", "de", "fa")
STITCHED = ("ae", "fb")
WALL = "#"
Cell = tuple[int, int]


@dataclass(frozen=True)
class Maze:
    """Rows of characters: `#` is a wall, a letter a named free cell. Cells are squares of side 1; y grows downwards.

    Raises `UserError` for rows of different lengths and for a maze whose border is open.
    """

    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        border = [*self.rows[0], *self.rows[-1], *(row[0] + row[-1] for row in self.rows)] if self.rows else [""]
        if len({len(row) for row in self.rows}) != 1 or set("".join(border)) != {WALL}:
            raise UserError("a maze is given as rows of equal length within a border of '#' (env_kwargs.layout)")

    def free(self, x: float, y: float) -> bool:
        """Whether a place is no wall."""
        return self.rows[int(y)][int(x)] != WALL

    def place(self, name: str) -> Floats:
        """The middle of the cell with this letter, [2]; raises `UserError` where no cell has it."""
        for y, row in enumerate(self.rows):
            if name != WALL and name in row:
                return np.array([row.index(name) + 0.5, y + 0.5], dtype=np.float32)
        raise UserError(f"the maze has no cell '{name}' (env_kwargs.routes)")

    def distances(self, goal: Cell) -> dict[Cell, int]:
        """Steps from every cell (x, y) that is connected with the goal's to it."""
        found, waiting = {goal: 0}, deque([goal])
        while waiting:
            x, y = waiting.popleft()
            for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if cell not in found and self.rows[cell[1]][cell[0]] != WALL:
                    found[cell] = found[x, y] + 1
                    waiting.append(cell)
        return found


class PointMaze(gym.Env[dict[str, Floats], Floats]):
    """Walk from the start to the goal of a route; the action is a displacement of at most `step` along each axis.

    Observations follow gymnasium-robotics' convention: `observation` [2] and `achieved_goal` [2] are the place,
    `desired_goal` [2] is where to go. The goal counts as reached within `reach`: it pays 1 and ends the episode.
    Walls stop the axis along which they are hit. `routes`: pairs of letters of the layout, start and goal, one of which
    is drawn at every reset, or `recorded` or `stitched`, those of the default layout. Start and goal are drawn within
    `spread` of the middle of their cells. Raises `UserError` for a wrong layout and for letters it does not have.
    """

    def __init__(
        self,
        layout: Sequence[str] = LAYOUT,
        routes: str | Sequence[str] = "recorded",
        step: float = 0.4,
        reach: float = 0.5,
        spread: float = 0.2,
        render_mode: str | None = None,
    ) -> None:
        self.maze = Maze(tuple(layout))
        named = {"recorded": RECORDED, "stitched": STITCHED}
        if isinstance(routes, str) and routes not in named:
            raise UserError(f"env_kwargs.routes is '{routes}'; give recorded, stitched or a list such as [ab, de]")
        self._routes = list(named[routes] if isinstance(routes, str) else routes)
        if not self._routes or any(len(route) != 2 for route in self._routes):
            raise UserError("env_kwargs.routes: a route is two letters of the layout, start and goal, such as ab")
        for name in "".join(self._routes):
            self.maze.place(name)
        self.step_length, self._reach, self._spread = step, reach, spread
        self._place = self._goal = np.zeros(2, dtype=np.float32)
        plane = gym.spaces.Box(0.0, float(max(len(self.maze.rows), len(self.maze.rows[0]))), (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"observation": plane, "achieved_goal": plane, "desired_goal": plane})  # type: ignore[assignment]
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Floats], dict[str, Any]]:
        """Draw a route; `options={"route": "ab"}` chooses it."""
        super().reset(seed=seed)
        drawn = self._routes[int(self.np_random.integers(len(self._routes)))]
        route = str((options or {}).get("route", drawn))
        self._place, self._goal = self._around(route[0]), self._around(route[1])
        return self._seen(), {}

    def step(self, action: Floats) -> tuple[dict[str, Floats], float, bool, bool, dict[str, Any]]:
        """Move, one axis after the other."""
        move = self.step_length * np.clip(action, -1.0, 1.0)
        x, y = (float(number) for number in self._place)
        x = x + float(move[0]) if self.maze.free(x + float(move[0]), y) else x
        y = y + float(move[1]) if self.maze.free(x, y + float(move[1])) else y
        self._place = np.array([x, y], dtype=np.float32)
        reached = bool(np.linalg.norm(self._place - self._goal) < self._reach)
        return self._seen(), float(reached), reached, False, {}

    def _around(self, name: str) -> Floats:
        noise = self.np_random.uniform(-self._spread, self._spread, 2)
        return (self.maze.place(name) + noise).astype(np.float32)

    def _seen(self) -> dict[str, Floats]:
        return {"observation": self._place, "achieved_goal": self._place, "desired_goal": self._goal}


gym.register("unirl/PointMaze-v0", entry_point="unirl.control.mazes:PointMaze", max_episode_steps=100)


@register("expert", "point_maze")
class PointMazeExpert:
    """Walks a shortest way through PointMaze, from the middle of one cell to the middle of the next.

    Observations [B, 6] (achieved goal, desired goal, observation) -> actions [B, 2]. `bind` takes over the layout of
    the environment in which it demonstrates.
    """

    sizes: ClassVar[tuple[int, int]] = (6, 2)  # observations, actions

    def __init__(self, layout: Sequence[str] = LAYOUT, step: float = 0.4) -> None:
        self._maze, self._step = Maze(tuple(layout)), step

    def bind(self, environment: Any) -> None:
        """Walk in this environment's maze; raises `UserError` where it is none."""
        if not isinstance(environment, PointMaze):
            raise UserError("the expert 'point_maze' demonstrates in unirl/PointMaze-v0 only")
        self._maze, self._step = environment.maze, environment.step_length

    def __call__(self, observation: Array) -> Array:
        """Actions for a batch of observations."""
        return np.stack([self._action(seen[:2], seen[2:4]) for seen in observation])

    def _action(self, place: Array, goal: Array) -> Array:
        x, y = int(place[0]), int(place[1])
        target = (int(goal[0]), int(goal[1]))
        away = self._maze.distances(target)
        near = [cell for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)) if cell in away]
        following = min(near, key=lambda cell: away[cell], default=target)
        towards = goal if (x, y) == target else np.add(following, 0.5)
        return np.clip((towards - place) / self._step, -1.0, 1.0).astype(np.float32)


def crossing_routes() -> Transitions:
    """Two recorded routes that cross, A -> C -> B and D -> C -> E: none leads from A to E.

    Nodes are points of the plane, A (0, 2), B (2, 2), C (1, 1), D (0, 0), E (2, 0); an action is the displacement.
    """
    a, b, c, d, e = (0, 2), (2, 2), (1, 1), (0, 0), (2, 0)
    states = np.array([a, c, d, c], dtype=np.float32)
    following = np.array([c, b, c, e], dtype=np.float32)
    last = np.array([False, True, False, True])
    return Transitions(states, following - states, last.astype(np.float32), following, last, np.zeros(4, dtype=bool))
