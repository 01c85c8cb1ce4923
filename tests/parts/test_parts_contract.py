"""What every part of the core promises: documentation, honest `reads`, no dependence on padding, errors that help."""

import pytest
import torch
from hypothesis import given
from strategies import batches, random_batch
from torch.testing import assert_close

from unirl import Batch, make
from unirl.batch import FIELDS, MissingFieldError
from unirl.errors import UserError
from unirl.registry import part_class

PARTS = [
    ("advantage", "batch_norm", {}),
    ("advantage", "dice_ratio", {"online": True}),
    ("advantage", "dice_ratio", {"online": True, "weight": "analytic", "source": 1}),
    ("advantage", "gae", {}),
    ("advantage", "group", {}),
    ("advantage", "mc", {}),
    ("advantage", "mc", {"baseline": "value"}),
    ("advantage", "q_minus_v", {}),
    ("advantage", "temporal", {"squash": True}),
    ("advantage", "turn_gae", {}),
    ("objective", "advantage_weighted", {}),
    ("objective", "advantage_weighted", {"advantage": "critic"}),
    ("objective", "cispo", {}),
    ("objective", "cpl", {}),
    ("objective", "cpl", {"reference": "prev"}),
    ("objective", "dpo", {}),
    ("objective", "expert_value_gradient", {}),
    ("objective", "expert_value_gradient", {"variant": "released"}),
    ("objective", "gspo", {}),
    ("objective", "ipo", {}),
    ("objective", "log_likelihood", {}),
    ("objective", "log_ratio_regression", {"step": 1.0, "tau": 0.1}),
    ("objective", "log_ratio_regression", {"step": 1.0, "tau": 0.0, "payoff": "score"}),
    ("objective", "mdpo", {}),
    ("objective", "none", {}),
    ("objective", "policy_gradient", {}),
    ("objective", "ppo_clip", {}),
    ("objective", "ppo_clip_joint", {}),
    ("objective", "ppo_clip_joint", {"unit": "turn"}),
    ("objective", "improved_likelihood", {}),
    ("objective", "temporal_advantage", {}),
    ("objective", "value_gradient", {}),
    ("objective", "value_gradient", {"target": {"lower": 0.5}}),
    ("objective", "value_gradient", {"target": {"lower": 0.5, "spread": "predicted"}}),
    ("regularizer", "behavior", {}),
    ("regularizer", "advantage_guided", {}),
    ("regularizer", "behavior", {"distance": "log_likelihood"}),
    ("regularizer", "behavior", {"distance": "squared", "reference": "nearest_action"}),
    ("regularizer", "entropy", {}),
    ("regularizer", "entropy", {"estimator": "sample"}),
    ("regularizer", "entropy", {"estimator": "experts"}),
    ("regularizer", "entropy", {"estimator": "experts", "variant": "released"}),
    ("regularizer", "kl", {}),
    ("regularizer", "kl", {"estimator": "k3", "from_anchor": True, "to": "prev"}),
    ("regularizer", "kl", {"estimator": "exact", "from_anchor": True, "to": "prev"}),
    ("regularizer", "kl", {"estimator": "k3", "weighted": True, "to": "prev"}),
    ("regularizer", "kl", {"estimator": "exact"}),
    ("regularizer", "kl", {"estimator": "reparameterized"}),
    ("regularizer", "kl", {"estimator": "top_k", "choices": 2}),
    ("regularizer", "kl", {"estimator": "top_k", "from_anchor": True, "to": "prev"}),
    ("regularizer", "router_frequency", {}),
    ("regularizer", "swaddling", {}),
    ("regularizer", "tsallis", {"to": "ref"}),
    ("regularizer", "tsallis", {"to": None, "estimator": "sample", "index": 1.5}),
    ("regularizer", "tsallis", {"to": "ref", "estimator": "sample", "weighted": True}),
    ("regularizer", "tsallis", {"to": "ref", "variant": "released"}),
    ("critic", "behavior_q", {}),
    ("critic", "behavior_vae", {}),
    ("critic", "conservative", {}),
    ("critic", "conservative", {"calibrated": True}),
    ("critic", "conservative", {"threshold": 1.0}),
    ("critic", "td_value", {}),
    ("critic", "diversity", {}),
    ("critic", "gaussian_q", {}),
    ("critic", "gaussian_q", {"target": {"lower": 0.5, "spread": "predicted"}, "loss": "nll"}),
    ("critic", "gaussian_v", {}),
    ("critic", "gaussian_v", {"loss": "nll", "stabilize": 0.5}),
    ("critic", "joint_q", {}),
    ("critic", "quantile_q", {"heads": 1, "atoms": 2, "dropped": 1}),
    ("critic", "subset_q", {"heads": 2, "subset": 1}),
    ("critic", "q", {}),
    ("critic", "q", {"bootstrap": "value"}),
    ("critic", "q", {"bootstrap": "target_value"}),
    ("critic", "q", {"loss": "huber", "delta": 0.5}),
    ("critic", "node_q", {}),
    ("critic", "node_q", {"cost": False, "target": "min"}),
    ("critic", "reward_head", {}),
    ("critic", "soft_q", {}),
    ("critic", "v", {}),
    ("critic", "v", {"loss": "clipped", "anneal": True}),
    ("critic", "v", {"per_turn": True}),
    ("critic", "v", {"per_turn": True, "loss": "clipped"}),
    ("critic", "v", {"loss": "expectile", "target": "q_data"}),
    ("critic", "v", {"loss": "chi_square", "target": "q_data"}),
    ("critic", "v", {"loss": "chi_square", "variant": "released"}),
    ("critic", "v", {"loss": "total_variation", "source": 1}),
    ("critic", "v", {"loss": "gumbel", "source": 0}),
    ("critic", "v", {"target": "soft_q"}),
    ("critic", "v", {"target": "soft_q", "proximal": {"ref": 0.5}}),
    ("coefficient", "auto", {"target": -1.0}),
    ("coefficient", "auto", {"target": -1.0, "estimator": "exact"}),
    ("selection", "best_of_group", {"keep": 2}),
    ("selection", "engine_correction", {}),
    ("selection", "engine_correction", {"level": "sequence", "mode": "mask", "low": 0.5, "high": 5.0}),
    ("selection", "engine_correction", {"level": "geometric", "low": 0.5}),
    ("selection", "of_source", {}),
    ("selection", "pair_by_score", {}),
    ("selection", "row_filter", {}),
    ("selection", "valid_groups", {}),
    ("reward", "combine", {"weights": {"accuracy": 1.0, "cost": 0.1}}),
    ("reward", "kl_in_reward", {"coef": 0.1}),
    ("reward", "length", {"target": 3}),
    ("reward", "length_cosine", {}),
    ("reward", "normalize", {}),
    ("reward", "outcome", {}),
    ("reward", "overlong", {}),
    ("reward", "win_rate", {}),
]
every_part = pytest.mark.parametrize(("kind", "name", "hyper"), PARTS)
OUTPUTS = ("advantage", "returns", "score", "reward", "weight", "pairs", "pair_label")


def restricted(batch: Batch, names: set[str]) -> Batch:
    """The batch with only the mask and the named fields."""
    kept = {"mask": batch.mask}
    for name in names:
        head, _, tail = name.partition(".")
        value = getattr(batch, head)
        kept[head] = {**kept.get(head, {}), tail: value[tail]} if tail else value
    return Batch(**kept)


def run(part, batch):
    return part.loss(batch) if hasattr(part, "loss") else part(batch)


def full_batch() -> Batch:
    return random_batch(4, 5, torch.Generator().manual_seed(3), whole=False, prefix=False)


@every_part
def test_reads_is_exactly_what_a_part_needs(kind, name, hyper):
    part, batch = make(kind, name, **hyper), full_batch()
    reads = set(part.reads)
    assert {field.partition(".")[0] for field in reads} <= set(FIELDS) - {"mask"}
    run(part, restricted(batch, reads))
    for field in reads:
        with pytest.raises(MissingFieldError, match=field.partition(".")[0]):
            run(make(kind, name, **hyper), restricted(batch, reads - {field}))


@every_part
def test_padding_columns_change_nothing(kind, name, hyper):
    batch = full_batch()
    padded = Batch.cat([batch, random_batch(1, 9, torch.Generator().manual_seed(4), whole=True, prefix=False)])[:4]
    padded = padded.replace(pairs=batch.pairs, pair_label=batch.pair_label, temperature=batch.temperature)
    before, after = run(make(kind, name, **hyper), batch), run(make(kind, name, **hyper), padded)
    if isinstance(before, torch.Tensor):
        if before.dim() == 2:
            before, after = before[batch.mask], after[:, :5][batch.mask]
        assert_close(after, before)
        return
    for field in OUTPUTS:
        if field in before:
            short, long = getattr(before, field), getattr(after, field)
            two_dimensional = FIELDS[field][0] == "decision"
            assert_close(
                long[:, :5][batch.mask] if two_dimensional else long, short[batch.mask] if two_dimensional else short
            )


@every_part
def test_documentation_gives_a_first_line_and_the_fields(kind, name, hyper):
    text = part_class(kind, name).__doc__
    assert len(text.strip().splitlines()[0]) > 20
    assert any(f"`{field}" in text for field in FIELDS) or kind == "coefficient"


@every_part
def test_shapes_follow_the_level(kind, name, hyper):
    part, batch = make(kind, name, **hyper), full_batch()
    if kind in ("objective", "regularizer", "critic"):
        level = getattr(part, "level", "decision")
        expected = {"decision": batch.mask.shape, "row": (4,), "pair": (3,)}[level]
        assert run(part, batch).shape == expected


@given(batches(min_rows=2))
def test_parts_do_not_change_the_batch_they_are_given(batch):
    before = {name: getattr(batch, name).clone() for name in OUTPUTS}
    for kind, name, hyper in PARTS:
        run(make(kind, name, **hyper), batch)
    for field, value in before.items():
        assert torch.equal(getattr(batch, field), value), field


def test_a_missing_field_names_the_part_and_who_fills_it():
    batch = Batch(mask=torch.ones(1, 1, dtype=torch.bool), logp=torch.zeros(1, 1))
    with pytest.raises(
        MissingFieldError, match=r"objective 'ppo_clip' needs `old_logp`; usually filled by domain\.score"
    ):
        make("objective", "ppo_clip")(batch.replace(advantage=torch.zeros(1, 1)))


def test_unknown_names_and_hyper_parameters_list_near_matches():
    with pytest.raises(UserError, match="did you mean ppo_clip"):
        make("objective", "ppo_klip")
    with pytest.raises(UserError, match="did you mean clip_low"):
        make("objective", "ppo_clip", clip_lo=0.1)
