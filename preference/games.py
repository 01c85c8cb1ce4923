r"""Exact preference games: the tabular maps behind the Nash family, in float64.

A game is a matrix ``P`` with ``P[i, j]`` the probability that outcome i is preferred to j (``P + P^T = 1``) and a
reference policy ``mu``. Both players pay ``tau KL(pi || mu)``; by symmetry the value of the game is 1/2. Every method
of the family is `mirror_step` with its own base policy and opponent q, whose win rates ``P q`` are the payoff::

    method                  base                      payoff of          step
    INPO, online mirror     pi_t                      pi_t               1 / eta_INPO
    DNO, SPPO               pi_t, tau = 0             pi_t               1 / eta
    Nash-MD                 mixture of pi_t and mu    that mixture       eta, tau = 0 (the mixture holds it)
    EGPO, Nash-MP           pi_t, twice               pi_t, then half    eta, or 1 / (lam + tau)

The proximal step ``argmax <P q, pi> - tau KL(pi || mu) - lam KL(pi || pi_t)`` is the explicit one with ``s = 1 / (lam +
tau)``. Policies are passed as log-probabilities [n]. Sources: Munos et al. 2023; Zhang et al. 2024 (INPO); Zhou et al.
2025 (EGPO); Tiapkin et al. 2025 (Nash-MP).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.errors import UserError

Schedule = float | Callable[[int], float]


@dataclass(frozen=True)
class Game:
    """A preference matrix [n, n] and a reference policy [n] of positive probabilities; checked when made.

    Raises `UserError` if preferences of a pair do not add up to 1 or the reference is no distribution.
    """

    preference: Tensor
    reference: Tensor

    def __post_init__(self) -> None:
        matrix, mu = self.preference, self.reference
        if matrix.shape != (len(mu), len(mu)):
            raise UserError(
                f"a game of {len(mu)} outcomes needs a matrix [{len(mu)}, {len(mu)}], not {list(matrix.shape)}"
            )
        if not torch.allclose(matrix + matrix.T, torch.ones_like(matrix)) or matrix.min() < 0:
            raise UserError("a preference matrix needs entries in [0, 1] with P[i, j] + P[j, i] = 1")
        if mu.min() <= 0 or not torch.isclose(mu.sum(), mu.new_tensor(1.0)):
            raise UserError("a game's reference policy needs positive probabilities that add up to 1")

    @property
    def log_reference(self) -> Tensor:
        """Log-probabilities of the reference, [n]."""
        return self.reference.log()

    def win_rate(self, log_policy: Tensor) -> Tensor:
        """Probability of every outcome to win against a draw from the policy, P q, [n]."""
        return self.preference @ log_policy.exp()


def game(preference: list[list[float]], reference: list[float]) -> Game:
    """A game from plain lists."""
    return Game(torch.tensor(preference, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64))


# A cyclic taste (0 beats 1 beats 2 beats 0); its unregularised equilibrium is (0.3, 0.3, 0.4).
TEST_GAME = game([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], [0.6, 0.3, 0.1])


def mirror_step(logpi: Tensor, logmu: Tensor, payoff: Tensor, s: float, tau: float) -> Tensor:
    r"""One regularised mirror step: ``log pi' = (1 - s tau) log pi + s tau log mu + s payoff + const``, all [n]."""
    return torch.log_softmax((1 - s * tau) * logpi + s * tau * logmu + s * payoff, -1)


def geometric_mixture(logpi: Tensor, logmu: Tensor, weight: float) -> Tensor:
    """Normalised ``pi^(1 - weight) mu^weight``, as log-probabilities [n]."""
    return torch.log_softmax((1 - weight) * logpi + weight * logmu, -1)


def kl_divergence(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p || q), a scalar. Outcomes of zero probability under p count nothing."""
    return torch.where(logp.isneginf(), 0.0, logp.exp() * (logp - logq)).sum(-1)


def exploitability(logpi: Tensor, of: Game, tau: float = 0.0) -> Tensor:
    r"""How much a best response gains: half of the symmetric duality gap, >= 0 and 0 only at the equilibrium.

    ``tau log sum_y mu(y) exp((P pi)(y) / tau) + tau KL(pi || mu) - 1/2``, or ``max_y (P pi)(y) - 1/2`` at tau = 0.
    """
    wins = of.win_rate(logpi)
    if tau == 0:
        return wins.max() - 0.5
    best_response = tau * torch.logsumexp(of.log_reference + wins / tau, -1)
    return best_response + tau * kl_divergence(logpi, of.log_reference) - 0.5


def nash_equilibrium(of: Game, tau: float, tolerance: float = 1e-16, max_steps: int = 100_000) -> Tensor:
    r"""Log-probabilities [n] of the regularised equilibrium ``pi*(y) ~ mu(y) exp((P pi*)(y) / tau)``.

    Iterates the extragradient map with ``lam = 1/2``, whose error shrinks by ``1 / (1 + 2 tau)`` per step at least,
    until no probability moves by more than `tolerance`. Raises `UserError` for tau <= 0 or too few steps.
    """
    if tau <= 0:
        raise UserError(f"the regularised equilibrium needs tau > 0, not {tau}")
    logpi = of.log_reference
    for _ in range(max_steps):
        following = extragradient_step(logpi, of, 1 / (0.5 + tau), tau)
        moved = (following.exp() - logpi.exp()).abs().max()
        logpi = following
        if moved <= tolerance:
            return logpi
    raise UserError(f"no equilibrium within {max_steps} steps at tau={tau}; raise max_steps or tolerance")


def equilibrium_residual(logpi: Tensor, of: Game, tau: float) -> Tensor:
    """Spread of ``log(pi / mu) - P pi / tau`` over outcomes: 0 exactly at the regularised equilibrium."""
    gap = logpi - of.log_reference - of.win_rate(logpi) / tau
    return gap.max() - gap.min()


def extragradient_step(logpi: Tensor, of: Game, s: float, tau: float) -> Tensor:
    """Look ahead against pi, then step from pi against the look-ahead policy (EGPO)."""
    half = mirror_step(logpi, of.log_reference, of.win_rate(logpi), s, tau)
    return mirror_step(logpi, of.log_reference, of.win_rate(half), s, tau)


def nash_md_step(logpi: Tensor, of: Game, s: float, tau: float) -> Tensor:
    """Step from, and against, the geometric mixture of pi and the reference with weight ``s tau`` (Nash-MD)."""
    mixture = geometric_mixture(logpi, of.log_reference, s * tau)
    return mirror_step(mixture, of.log_reference, of.win_rate(mixture), s, 0.0)


def mirror_descent_step(logpi: Tensor, of: Game, s: float, tau: float) -> Tensor:
    """Step from, and against, pi itself: online mirror descent, the exact INPO update with ``s = 1 / eta``."""
    return mirror_step(logpi, of.log_reference, of.win_rate(logpi), s, tau)


def nash_mirror_prox_step(logpi: Tensor, of: Game, lam: float, tau: float) -> Tensor:
    r"""Two proximal steps with coefficient `lam` to pi (Nash-MP): the extragradient step with ``s = 1 / (lam + tau)``.

    Written as the proximal closed form ``[lam log pi + tau log mu + P q] / (lam + tau)``.
    """

    def prox(q: Tensor) -> Tensor:
        return torch.log_softmax((lam * logpi + tau * of.log_reference + of.win_rate(q)) / (lam + tau), -1)

    return prox(prox(logpi))


def iterates(
    step: Callable[[Tensor, Game, float, float], Tensor],
    of: Game,
    s: Schedule,
    tau: float,
    steps: int,
    start: Tensor | None = None,
) -> Tensor:
    """Policies of `steps` updates as log-probabilities [steps + 1, n], from `start` (default: the reference).

    `step` is one of this module's step functions; `s` a constant or a function of the iteration 0, 1, ...
    """
    path = [of.log_reference if start is None else start]
    for t in range(steps):
        path.append(step(path[-1], of, s(t) if callable(s) else s, tau))
    return torch.stack(path)


def decreasing_step(tau: float) -> Callable[[int], float]:
    """The step ``2 / (tau (t + 2))``, with which Nash-MD and INPO converge as O(1 / T) in KL at the least."""
    return lambda t: 2 / (tau * (t + 2))
