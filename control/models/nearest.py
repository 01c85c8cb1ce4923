"""The recorded action that is nearest to what the policy would do, over the whole dataset (PRDC [86])."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.errors import UserError, unknown
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.data.dataset import TransitionDataset
    from unirl.control.score import Scorer

VARIANTS = ("paper", "released")
LEAF = 128  # rows looked at together; measured with a million rows


@register("model", "nearest_action")
class NearestAction(AuxiliaryModel):
    r"""Finds the actions of the recorded pairs nearest to the policy's own state-action pairs.

    .. math:: \bar a(s) = \hat a_{i^*}, \qquad
        i^* = \arg\min_{(\hat s, \hat a) \in D} \|(\beta s) \oplus \pi(s) - (\beta \hat s) \oplus \hat a\|_2

    `beta`: weight of the state, 2 (the paper's locomotion; 7.5 on antmaze). Large: the nearest state counts, behaviour
    cloning; 0: any action of the data will do. `k`: neighbours; the reference is the mean of their actions, or the
    k-th one's with variant "released" (the authors' code; the same at k = 1). `slack`: a neighbour may be (1 + slack)
    times as far as the nearest; 0 is exact.

    Gives `model.nearest_action` [N, T, A] for the policy's mode, constant in the policy. The states are the dataset's,
    normalised where batches are. Raises `UserError` for unknown variants, numbers out of range, and where no data was
    recorded. Source: Policy regularization with dataset constraint (Ran et al. 2023).
    """

    fields: ClassVar[Mapping[str, str]] = {"nearest_action": "nearest_action"}

    def __init__(self, *, beta: float = 2.0, k: int = 1, variant: str = "paper", slack: float = 0.0) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant of model 'nearest_action'", str(variant), VARIANTS)
        if beta < 0 or k < 1 or slack < 0:
            raise UserError(
                f"model 'nearest_action': beta is {beta}, k {k}, slack {slack}; they must be at least 0, 1 and 0"
            )
        self.beta, self.k, self.variant, self.slack = beta, k, variant, slack
        self._tree: cKDTree | None = None
        self._actions: Tensor

    def fit(self, data: "TransitionDataset") -> None:
        """Build the search tree: about a second for a million rows."""
        observation, action = data.states_and_actions()
        if self.k > len(action):
            raise UserError(f"model 'nearest_action': k is {self.k}, the data holds {len(action)} rows")
        keys = self._keys(observation, action)
        order = cKDTree(keys, leafsize=LEAF, balanced_tree=False).indices  # in it, the rows of a leaf lie together
        self._tree = cKDTree(keys[order], leafsize=LEAF, balanced_tree=False)
        self._actions = action[torch.from_numpy(order)]

    def nearest_action(self, scorer: "Scorer") -> Tensor:
        """The reference actions, [N, T, A]."""
        return self.search(scorer.observation, scorer.policy.mode())

    @torch.no_grad()
    def search(self, observation: Tensor, action: Tensor) -> Tensor:
        """The reference for each of these states and actions, [..., A]."""
        if self._tree is None:
            raise UserError("model 'nearest_action' searches recorded data; it needs source offline or hybrid")
        keys = self._keys(observation, action)
        _, rows = self._tree.query(keys, k=[self.k] if self.variant == "released" else self.k, eps=self.slack)
        found = self._actions[torch.from_numpy(rows.reshape(*action.shape[:-1], -1))]
        return found.mean(-2).to(action)

    def _keys(self, observation: Tensor, action: Tensor) -> NDArray[np.float64]:
        return torch.cat([self.beta * observation, action], -1).double().cpu().numpy()
