"""Small problems with exact solutions: chains, bandits, random Markov decision processes, a graph to stitch.

As arrays with solvers (`chain`, `value_iteration`, ...), and as environments: `task=gymnasium task.env=unirl/Chain-v0`,
`unirl/Bandit-v0`, `unirl/RandomMDP-v0`, `unirl/Stitching-v0` (arguments in `task.env_kwargs`).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class TabularMDP:
    """A Markov decision process of S states and A actions.

    `transition` [S, A, S]: probabilities of the next state. `reward` [S, A]: expected reward. `start` [S]:
    probabilities of the first state. `terminal` [S] bool: episodes end on entering; nothing is paid from there on.
    `names`: of the states. Raises `ValueError` for shapes that disagree and probabilities that do not sum to 1.
    """

    transition: Array
    reward: Array
    start: Array
    terminal: Array
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        states, actions = self.reward.shape
        if self.transition.shape != (states, actions, states) or {len(self.start), len(self.terminal)} != {states}:
            raise ValueError("transition is [S, A, S], reward [S, A], start and terminal [S]")
        if not (np.allclose(self.transition.sum(-1), 1) and np.isclose(self.start.sum(), 1)):
            raise ValueError("the probabilities of the next state, and of the first, must sum to 1")

    @property
    def states(self) -> int:
        """S."""
        return int(self.reward.shape[0])

    @property
    def actions(self) -> int:
        """A."""
        return int(self.reward.shape[1])

    @property
    def going_on(self) -> Array:
        """`transition` into states in which an episode goes on, from such states, [S, A, S]."""
        alive = ~self.terminal
        live: Array = self.transition * alive[:, None, None] * alive
        return live

    @property
    def paid(self) -> Array:
        """`reward` where an episode goes on, [S, A]."""
        paid: Array = self.reward * ~self.terminal[:, None]
        return paid


# Solvers


def policy_evaluation(mdp: TabularMDP, policy: Array, gamma: float = 0.99) -> tuple[Array, Array]:
    r"""Exact values of a policy [S, A]: V [S] and Q [S, A].

    .. math:: V = (I - \gamma P_\pi)^{-1} r_\pi, \qquad Q(s, a) = r(s, a) + \gamma \sum_{s'} P(s'|s, a) V(s')

    Terminal states are worth 0. With gamma = 1 the policy must reach one for certain.
    """
    going_on = np.einsum("sa,sat->st", policy, mdp.going_on)
    value = np.linalg.solve(np.eye(mdp.states) - gamma * going_on, (policy * mdp.paid).sum(1))
    return value, mdp.paid + gamma * mdp.going_on @ value


def value_iteration(
    mdp: TabularMDP, gamma: float = 0.99, temperature: float = 0.0, tolerance: float = 1e-12
) -> tuple[Array, Array]:
    r"""Optimal values V [S] and Q [S, A], until they change by less than `tolerance`.

    .. math:: Q = r + \gamma P V, \qquad V = \max_a Q \quad\text{or}\quad V = \tau \log\sum_a e^{Q/\tau}

    `temperature` tau > 0: the optimum of return plus tau times the policy's entropy (soft Q-learning).
    """
    value = np.zeros(mdp.states)
    while True:
        q = mdp.paid + gamma * mdp.going_on @ value
        best = temperature * np.logaddexp.reduce(q / temperature, axis=1) if temperature > 0 else q.max(1)
        best[mdp.terminal] = 0.0
        if np.abs(best - value).max() < tolerance:
            return best, q
        value = best


def greedy(q: Array, temperature: float = 0.0) -> Array:
    """The policy [S, A] that takes the best action (the first of equals), or softmax(q / temperature)."""
    if temperature > 0:
        soft: Array = np.exp(q / temperature - np.logaddexp.reduce(q / temperature, axis=1, keepdims=True))
        return soft
    best: Array = np.eye(q.shape[1])[q.argmax(1)]
    return best


def occupancy(mdp: TabularMDP, policy: Array, gamma: float = 0.99) -> Array:
    r"""Discounted visits of a policy, [S, A], which sum to 1; episodes stay in the terminal state that they reach.

    .. math:: d(s, a) = (1 - \gamma) \sum_t \gamma^t \Pr(s_t = s, a_t = a)
    """
    staying = np.where(mdp.terminal[:, None, None], np.eye(mdp.states)[:, None, :], mdp.transition)
    forward = np.einsum("sa,sat->ts", policy, staying)
    visits = np.linalg.solve(np.eye(mdp.states) - gamma * forward, (1 - gamma) * mdp.start)
    joint: Array = visits[:, None] * policy
    return joint


# Problems


def chain(length: int = 5, slip: float = 0.0) -> TabularMDP:
    """States in a line, from left to right; action 0 goes left, 1 right, the other way with probability `slip`.

    Episodes start at the left end, where going left stays; entering the right end pays 1 and terminates.
    """
    left, right = np.maximum(np.arange(length) - 1, 0), np.minimum(np.arange(length) + 1, length - 1)
    to_left, to_right = np.eye(length)[left], np.eye(length)[right]
    transition = np.stack([(1 - slip) * to_left + slip * to_right, slip * to_left + (1 - slip) * to_right], 1)
    terminal = np.arange(length) == length - 1
    return TabularMDP(transition, transition[..., -1] * ~terminal[:, None], np.eye(length)[0], terminal)


def bandit(means: Sequence[float] = (0.0, 0.5, 1.0)) -> TabularMDP:
    """One decision among arms with these mean rewards."""
    reward = np.stack([np.asarray(means, dtype=float), np.zeros(len(means))])
    transition = np.broadcast_to(np.array([0.0, 1.0]), (2, len(means), 2)).copy()
    return TabularMDP(transition, reward, np.array([1.0, 0.0]), np.array([False, True]))


def random_mdp(states: int = 10, actions: int = 3, branching: int = 3, seed: int = 0) -> TabularMDP:
    """A Garnet problem: every state and action leads to `branching` random states; rewards are standard normal.

    Probabilities are uniform on the simplex. It never terminates. Source: Archibald et al. 1995.
    """
    rng = np.random.default_rng(seed)
    transition = np.zeros((states, actions, states))
    for s in range(states):
        for a in range(actions):
            transition[s, a, rng.choice(states, branching, replace=False)] = rng.dirichlet(np.ones(branching))
    reward = rng.standard_normal((states, actions))
    return TabularMDP(transition, reward, np.full(states, 1 / states), np.zeros(states, dtype=bool))


STITCHING = ("A", "B", "C", "D", "E")
STITCHING_TRAJECTORIES = (("A", "C", "B"), ("D", "C", "E"))


def stitching(goal: str = "E", start: str = "A") -> TabularMDP:
    """A graph on which A to E never occurs in one recorded trajectory: A -> C -> B and D -> C -> E are [133].

    Action i goes to state i where there is an edge, and stays otherwise; entering `goal` pays 1 and terminates.
    """
    index = {name: i for i, name in enumerate(STITCHING)}
    edges = {(a, b) for path in STITCHING_TRAJECTORIES for a, b in itertools.pairwise(path)}
    transition = np.zeros((5, 5, 5))
    for a in STITCHING:
        for b in STITCHING:
            transition[index[a], index[b], index[b if (a, b) in edges else a]] = 1.0
    terminal = np.eye(5, dtype=bool)[index[goal]]
    reward = transition[..., index[goal]] * ~terminal[:, None]
    return TabularMDP(transition, reward, np.eye(5)[index[start]], terminal, STITCHING)


# Environments


class TabularEnv(gym.Env[Array, Any]):
    """A tabular problem as an environment: shows its state one-hot, [S], and takes the number of an action.

    Rewards are the expected ones, with Gaussian noise of standard deviation `reward_std`.
    """

    constants = ("mdp",)

    def __init__(self, mdp: TabularMDP, reward_std: float = 0.0) -> None:
        self.mdp, self.reward_std = mdp, reward_std
        self.state = 0
        self.observation_space = gym.spaces.Box(0.0, 1.0, (mdp.states,), np.float32)
        self.action_space = gym.spaces.Discrete(mdp.actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw the first state."""
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.mdp.start), p=self.mdp.start))
        return self._shown(), {"state": self.state}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Draw the next state."""
        reward = float(self.mdp.reward[self.state, action])
        if self.reward_std > 0:
            reward += self.reward_std * float(self.np_random.standard_normal())
        self.state = int(self.np_random.choice(len(self.mdp.start), p=self.mdp.transition[self.state, action]))
        return self._shown(), reward, bool(self.mdp.terminal[self.state]), False, {"state": self.state}

    def _shown(self) -> Array:
        shown: Array = np.zeros(len(self.mdp.start), dtype=np.float32)
        shown[self.state] = 1.0
        return shown


def _register(name: str, problem: Callable[..., TabularMDP], steps: int) -> None:
    def make(reward_std: float = 0.0, render_mode: str | None = None, **arguments: Any) -> TabularEnv:
        return TabularEnv(problem(**arguments), reward_std)

    gym.register(f"unirl/{name}-v0", entry_point=make, max_episode_steps=steps)


_register("Chain", chain, 50)
_register("Bandit", bandit, 1)
_register("RandomMDP", random_mdp, 100)
_register("Stitching", stitching, 10)
