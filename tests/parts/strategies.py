"""Random batches for properties that hold for any batch."""

from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from unirl import Batch

settings.register_profile("parts", max_examples=20, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("parts")


@st.composite
def batches(draw: st.DrawFn, min_rows: int = 1, whole: bool = False, prefix: bool = False) -> Batch:
    """A batch with every field filled, in double precision.

    Log-probabilities are densities, of either sign. The mask has gaps and may leave a row empty; `whole` masks nothing,
    `prefix` masks a non-empty right-padded prefix. `next_value` is the `value` of the next masked decision of the same
    episode, a number of its own where the episode is cut, and 0 at a termination.
    """
    rows, columns = draw(st.integers(min_rows, 4)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return random_batch(rows, columns, generator, whole, prefix)


def random_batch(rows: int, columns: int, generator: torch.Generator, whole: bool, prefix: bool) -> Batch:
    """The batch of `batches`, from a generator."""
    shape = (rows, columns)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def chance(p: float) -> Tensor:
        return torch.rand(shape, generator=generator) < p

    mask = torch.ones(shape, dtype=torch.bool) if whole else chance(0.7)
    if prefix:
        lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
        mask = torch.arange(columns) < lengths
    terminated = chance(0.2)
    truncated = chance(0.2) & ~terminated
    value, q = normal(*shape), normal(2, *shape)
    first = torch.randint(rows, (3,), generator=generator)
    second = (first + torch.randint(1, rows, (3,), generator=generator)) % rows if rows > 1 else first
    return Batch(
        mask=mask,
        logp=normal(*shape),
        old_logp=normal(*shape),
        anchor_logp={"ref": normal(*shape), "prev": normal(*shape)},
        anchor_kl={"ref": normal(*shape).abs()},
        entropy=normal(*shape),
        sample_logp=normal(*shape),
        sample_anchor_logp={"ref": normal(*shape)},
        policy_action=normal(*shape, 2),
        reference_action=normal(*shape, 2),
        q=q,
        q_first=q[0],
        q_data=normal(2, *shape),
        target_q_data=normal(2, *shape),
        next_q=normal(2, *shape),
        next_logp=normal(*shape),
        value_pred=normal(*shape),
        value=value,
        next_value=following_value(value, mask, terminated, truncated, normal(*shape)),
        reward=normal(*shape),
        rewards={"accuracy": normal(rows), "cost": normal(*shape)},
        score=normal(rows),
        terminated=terminated,
        truncated=truncated,
        advantage=normal(*shape),
        returns=normal(*shape),
        weight=torch.rand(shape, generator=generator, dtype=torch.float64),
        group=torch.randint(2, (rows,), generator=generator),
        source=torch.randint(2, (rows,), generator=generator),
        pairs=torch.stack([first, second], 1),
        pair_label=torch.rand(3, generator=generator, dtype=torch.float64),
        temperature=torch.tensor(0.3, dtype=torch.float64),
        progress=0.25,
        q_std=normal(2, *shape).abs() + 0.1,
        q_data_std=normal(2, *shape).abs() + 0.1,
        next_q_std=normal(2, *shape).abs() + 0.1,
        value_pred_std=normal(*shape).abs() + 0.1,
        model={
            "q_action_gradient": normal(*shape, 3, 2),
            "joint_q": normal(*shape, 2),
            "joint_next_q": normal(*shape, 2),
            "joint_next_logp": normal(*shape),
            "next_scale": normal(*shape, 2).sigmoid(),
            "next_damping": normal(*shape, 2).sigmoid(),
            "improved_logp": normal(*shape),
            "candidate_q": normal(*shape, 4, 2),
            "candidate_logp": normal(*shape, 4),
            "candidate_own": (normal(*shape, 4) > 0).double(),
            "nearest_action": normal(*shape, 2),
            "vae_action": normal(*shape, 2),
            "vae_action_q": normal(*shape, 2),
            "vae_error": normal(*shape).square(),
            "vae_kl": normal(*shape).square(),
            "reward": normal(*shape),
        },
        next_target_q_pred=normal(2, *shape),
        next_online_q=normal(2, *shape),
        next_policy_action=normal(*shape, 2),
        next_reference_action=normal(*shape, 2),
        next_target_value=normal(*shape),
        kl_from_anchor={"prev": normal(*shape).abs()},
        sample_logp_parts=normal(*shape, 2),
        sample_anchor_logp_parts={"ref": normal(*shape, 2)},
        router=normal(*shape, 3).softmax(-1),
        expert_q=normal(*shape, 3, 2),
        expert_logp=normal(*shape, 3),
        expert_own_logp=normal(*shape, 3),
        behavior_logp=normal(*shape),
        turn=torch.randint(3, shape, generator=generator),
        top_logp=normal(*shape, 5).log_softmax(-1)[..., :3],
        anchor_top_logp={name: normal(*shape, 5).log_softmax(-1)[..., :3] for name in ("ref", "prev")},
    )


def exact(values: Any) -> Tensor:
    """Nested lists in double precision, for values that single precision would round."""
    return torch.tensor(values, dtype=torch.float64)


def following_value(value: Tensor, mask: Tensor, terminated: Tensor, truncated: Tensor, else_: Tensor) -> Tensor:
    """What `next_value` is for a critic that is exact about which state follows which, by a loop."""
    following = else_.clone()
    for i in range(len(value)):
        for t in range(value.shape[1]):
            if terminated[i, t]:
                following[i, t] = 0.0
            elif not truncated[i, t]:
                for later in range(t + 1, value.shape[1]):
                    if mask[i, later]:
                        following[i, t] = value[i, later]
                        break
                    if terminated[i, later] or truncated[i, later]:
                        break
    return following


def with_leaf(batch: Batch, field: str = "logp") -> tuple[Batch, Tensor]:
    """The batch with `field` a leaf that collects gradients, and that leaf."""
    leaf = getattr(batch, field).detach().clone().requires_grad_()
    return batch.replace(**{field: leaf}), leaf
