"""The language domain as a method meets it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_stub import EOS, ToyTask, saved
from torch.testing import assert_close

import unirl.llm.domain
from unirl import Batch
from unirl.domain import Domain, Opponent, QSpec, Requirements, ValueSpec
from unirl.errors import UserError
from unirl.llm import LanguageDomain


@pytest.fixture
def make_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A domain on the toy task with a random model read from a folder."""
    monkeypatch.setattr(unirl.llm.domain, "make_task", lambda config, tokenizer, seed: ToyTask(seed))
    path = saved(tmp_path)

    def make(requirements: Requirements | None = None, task: Any = None, **options: Any) -> LanguageDomain:
        model = {"path": path, "dtype": "float64", **options.pop("model", {})}
        domain = LanguageDomain({"name": "toy", **(task or {})}, model, **options)
        domain.build(requirements or Requirements())
        return domain

    return make


def equal(first: Batch, second: Batch) -> bool:
    left, right = (batch.to_tensordict().values(True, True) for batch in (first, second))
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_it_is_a_domain(make_domain: Any) -> None:
    domain = make_domain()
    assert isinstance(domain, Domain)
    assert (domain.info.name, domain.info.task, domain.info.sample_unit) == ("llm", "toy", "tokens")
    assert not domain.info.independent_decisions


def test_a_rollout_fills_the_sampled_fields(make_domain: Any) -> None:
    batch = make_domain().rollout(24, group_size=4)
    lengths = batch.mask.sum(1)
    rows = torch.arange(24)
    assert batch.group.tolist() == [i // 4 for i in range(24)]
    assert len(batch.prompt_id.unique()) > 1
    assert all(len(batch.prompt_id[batch.group == g].unique()) == 1 for g in range(6))
    assert_close(batch.reward[rows, lengths - 1], batch.score)
    assert_close(batch.reward.sum(1), batch.score)
    ended = batch.inputs["token"][rows, lengths - 1] == EOS
    assert ended.any() and not ended.all()
    assert torch.equal(batch.terminated[rows, lengths - 1], ended)
    assert torch.equal(batch.truncated[rows, lengths - 1], ~ended)
    assert int(batch.terminated.sum() + batch.truncated.sum()) == 24
    assert_close(batch.rewards["length"], lengths.float())
    for i, ids in enumerate(batch.inputs["token"]):  # ids 2..11 are the digits 0..9, so even ids are even digits
        drawn = [t for t in ids[batch.mask[i]].tolist() if t >= 2]  # `<` and `>` are special and not in the text
        even = sum(t in (2, 4, 6, 8, 10) for t in drawn)
        assert math.isclose(batch.score[i], even / max(len(drawn), 1), abs_tol=1e-6)


def test_groups_of_later_rollouts_have_other_numbers(make_domain: Any) -> None:
    domain = make_domain()
    first, second = domain.rollout(8, group_size=2), domain.rollout(8, group_size=2)
    assert not set(first.group.tolist()) & set(second.group.tolist())
    assert len(Batch.cat([first, second]).group.unique()) == 8


def test_pieces_of_a_detached_score_equal_the_whole(make_domain: Any) -> None:
    need = {"old_logp", "value", "next_value", "anchor_logp.ref"}
    domain = make_domain(Requirements(value=ValueSpec(), anchors=frozenset({"ref"})), model={"critic": "separate"})
    torch.nn.init.ones_(domain.value_head.weight)
    batch = domain.rollout(16, group_size=4)
    whole = domain.score(batch, need)
    domain.token_budget = 30
    pieces = domain.score(batch, need)
    for name in ("old_logp", "value", "next_value"):
        assert_close(pieces.get(name), whole.get(name))
        assert not whole.get(name).requires_grad
    assert_close(pieces.anchor_logp["ref"], whole.anchor_logp["ref"])
    assert_close(whole.old_logp, batch.behavior_logp)
    assert_close(whole.anchor_logp["ref"], batch.behavior_logp)


def test_scoring_a_minibatch_of_a_padded_batch_gives_the_same_numbers(make_domain: Any) -> None:
    domain = make_domain()
    joined = Batch.cat([domain.rollout(4), domain.rollout(4)])
    logp = domain.score(joined, {"logp"}).logp
    assert_close(domain.score(joined[5:], {"logp"}).logp, logp[5:])
    assert_close(logp.detach(), joined.behavior_logp)


def test_gradients_of_microbatches_add_up_to_the_whole(make_domain: Any) -> None:
    domain = make_domain(token_budget=16)
    batch = domain.rollout(12, group_size=4)

    def gradient(pieces: list[Batch]) -> list[torch.Tensor]:
        domain.policy.zero_grad()
        for piece in pieces:
            (domain.score(piece, {"logp"}).logp.sin().sum() / 50).backward()
        return [parameter.grad.clone() for parameter in domain.parameters("policy")]

    pieces = domain.microbatches(batch)
    assert len(pieces) > 3
    assert_close(gradient(pieces), gradient([batch]), rtol=1e-5, atol=1e-6)  # norms are computed in float32


def test_a_model_that_cannot_be_packed_is_scored_with_padding(
    make_domain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = make_domain(token_budget=24)
    batch = domain.rollout(12, group_size=4)
    packed, pieces = domain.score(batch, {"logp"}).logp, domain.microbatches(batch)
    monkeypatch.setattr(unirl.llm.domain, "packable", lambda network: False)
    padding = make_domain(token_budget=24)
    assert_close(padding.score(batch, {"logp"}).logp, packed, rtol=1e-5, atol=1e-6)
    assert len(padding.microbatches(batch)) > len(pieces)  # padding and every repeated prompt count


def test_an_opponents_rows_are_the_last_of_each_group(make_domain: Any) -> None:
    domain = make_domain(Requirements(anchors=frozenset({"ref"})))
    with torch.no_grad():
        for parameter in domain.parameters("policy"):
            parameter.mul_(0.7)
    batch = domain.rollout(16, group_size=4, opponent=Opponent("ref", mixture=1.0, per_group=1))
    assert batch.source.tolist() == [0, 0, 0, 1] * 4
    scored = domain.score(batch, {"old_logp", "anchor_logp.ref"})
    own = batch.source == 0
    assert_close(scored.old_logp[own], batch.behavior_logp[own])
    assert_close(scored.anchor_logp["ref"][~own], batch.behavior_logp[~own])
    with pytest.raises(UserError, match="unknown anchor 'reff'"):
        domain.rollout(4, group_size=4, opponent=Opponent("reff"))


def test_evaluation_is_fixed_and_disturbs_nothing(make_domain: Any) -> None:
    domain, twin = make_domain(seed=4), make_domain(seed=4)
    domain.rollout(8), twin.rollout(8)
    drawn, greedy = domain.evaluate(16), domain.evaluate(16, sampled=False)
    assert drawn == domain.evaluate(16, sampled=True) and greedy == domain.evaluate(16, sampled=False)
    assert set(drawn) == {"score", "length", "truncated"} and drawn != greedy
    assert equal(domain.rollout(8), twin.rollout(8))
    domain.temperature = 1e-6  # drawing is then taking the likeliest
    assert domain.evaluate(16) == greedy


def test_the_state_continues_bit_for_bit(make_domain: Any) -> None:
    needs = Requirements(value=ValueSpec(), anchors=frozenset({"ref"}))
    domain = make_domain(needs, seed=1)
    optimizer = torch.optim.SGD([*domain.parameters("policy"), *domain.parameters("value")], lr=0.1)

    def train(domain: LanguageDomain, optimizer: torch.optim.Optimizer) -> Batch:
        batch = domain.score(domain.rollout(8, group_size=2), {"logp", "value_pred", "anchor_kl.ref"})
        optimizer.zero_grad()
        loss = (batch.logp * batch.score[:, None]).mean() + (batch.value_pred - 1).square().mean()
        (loss + batch.anchor_kl["ref"].mean()).backward()
        optimizer.step()
        return batch.detach()

    train(domain, optimizer)
    restored = make_domain(needs, seed=2)
    restored.load_state_dict(domain.state_dict())
    other = torch.optim.SGD([*restored.parameters("policy"), *restored.parameters("value")], lr=0.1)
    for _ in range(2):
        assert equal(train(domain, optimizer), train(restored, other))


def test_the_state_holds_tensors_and_json_alone(make_domain: Any) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            for leaf in value.values():
                check(leaf)
        else:
            assert value is None or isinstance(value, torch.Tensor | int | float | str | bool)

    state = make_domain(Requirements(value=ValueSpec(), anchors=frozenset({"ref"}))).state_dict()
    check(state)
    storages = [leaf.data_ptr() for leaf in state["policy"].values()]
    assert len(set(storages)) == len(storages)  # tied weights once: safetensors refuses shared storage


def test_parameters_by_role(make_domain: Any) -> None:
    shared = make_domain(Requirements(value=ValueSpec()), model={"critic": "shared"})
    assert len(shared.parameters("value")) == 2 and len(shared.parameters("policy")) > 10
    separate = make_domain(Requirements(value=ValueSpec()), model={"critic": "separate"})
    assert len(separate.parameters("value")) == len(separate.parameters("policy")) + 2
    assert not {id(p) for p in separate.parameters("value")} & {id(p) for p in separate.parameters("policy")}
    lora = make_domain(model={"lora": {"rank": 2}})
    assert all(p.requires_grad and 2 in p.shape for p in lora.parameters("policy"))
    assert make_domain().parameters("temperature") == [] == make_domain().parameters("value")


def test_a_lora_policy_rolls_out_and_scores_like_any_other(make_domain: Any) -> None:
    domain = make_domain(Requirements(anchors=frozenset({"ref", "prev"})), model={"lora": {"rank": 2}})
    with torch.no_grad():
        for parameter in domain.parameters("policy"):
            parameter.add_(0.05)
    domain.copy_policy("prev")
    batch = domain.rollout(8, group_size=4, opponent=Opponent("ref", mixture=0.5, per_group=2))
    scored = domain.score(batch, {"logp", "anchor_logp.prev", "anchor_logp.ref", "anchor_kl.ref"})
    own = batch.source == 0
    assert_close(scored.logp[own].detach(), batch.behavior_logp[own], atol=1e-5, rtol=1e-5)
    assert_close(scored.anchor_logp["prev"], scored.logp.detach(), atol=1e-6, rtol=1e-6)
    assert scored.anchor_kl["ref"].sum() > 0
    scored.anchor_kl["ref"].sum().backward()
    assert all(parameter.grad is not None for parameter in domain.parameters("policy"))


def test_demonstrations_are_rows_that_ended(make_domain: Any) -> None:
    data = make_domain(demonstrations=10).dataset({})
    batch = data.sample(5)
    assert len(data) == 10 and len(batch) == 5
    rows, last = torch.arange(5), batch.mask.sum(1) - 1
    assert batch.terminated[rows, last].all() and not batch.truncated.any()
    state = data.state_dict()
    drawn = data.sample(5)
    data.load_state_dict(state)
    assert equal(drawn, data.sample(5))


def test_pairs_are_made_from_groups_of_the_starting_policy(make_domain: Any) -> None:
    domain = make_domain(task={"preferences": {"prompts": 8, "group_size": 4, "pairs_per_group": 2}})
    data = domain.preferences()
    assert 8 <= len(data) <= 16
    batch = data.sample(6)
    first, second = batch.pairs.unbind(1)
    assert (batch.group[first] == batch.group[second]).all()
    assert (batch.score[first] > batch.score[second]).all() and (batch.pair_label == 1).all()


def test_a_policy_whose_answers_never_differ_in_score_gives_no_pairs(
    make_domain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyTask, "reward", lambda self, prompts, texts, ids: {"score": [0.0] * len(texts)})
    with pytest.raises(UserError, match="nothing to prefer"):
        make_domain().preferences()


def test_a_task_without_a_verifier_is_evaluated_on_held_out_pairs(
    make_domain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyTask, "has_reward", False)
    answers = lambda task, held_out=False: [(p, [2, EOS], [3, 3, EOS]) for p in task.held_out(4)]  # noqa: E731
    monkeypatch.setattr(ToyTask, "pairs", answers)
    domain = make_domain()
    assert domain.evaluate(4) == domain.evaluate(2) == {"score": 0.5, "win_rate": 0.5, "margin": 0.0}
    assert domain.preferences().sample(3).pair_label.tolist() == [1.0, 1.0, 1.0]
    rows = domain.preferences().rows
    logp = domain.score(rows, {"logp"}).logp.sum(1)
    (logp[1::2].sum() - logp[0::2].sum()).backward()
    with torch.no_grad():
        for parameter in domain.parameters("policy"):
            parameter.sub_(1e-3 * parameter.grad)
    better = domain.evaluate(4)
    assert better["score"] == 1.0 and better["margin"] > 0
    assert "score" not in domain.rollout(4)
    monkeypatch.setattr(ToyTask, "pairs", lambda task, held_out=False: None)
    with pytest.raises(UserError, match="cannot be evaluated"):
        make_domain()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.build(Requirements(q=QSpec())), "`q` critic, which the language domain does not offer"),
        (lambda d: d.build(Requirements(policy="deterministic")), "needs a deterministic policy"),
        (lambda d: d.rollout(8, unit="segment"), "responses are sampled whole"),
        (lambda d: d.rollout(10, group_size=4), "must be a multiple of group_size"),
        (lambda d: d.rollout(8, group_size=4, opponent=Opponent(per_group=5)), "must be 1 to group_size"),
        (lambda d: d.score(d.rollout(2), {"q"}), "needs `q`, which the language domain does not offer"),
    ],
)
def test_mistakes_are_named(make_domain: Any, call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(make_domain())
    with pytest.raises(UserError, match="does not go with"):
        make_domain(
            Requirements(value=ValueSpec()), model={"lora": {}, "critic": "separate", "gradient_checkpointing": True}
        )
    with pytest.raises(UserError, match="temperature is 0"):
        make_domain(temperature=0)
    with pytest.raises(UserError, match="temperature is 'warm'; it must be a number above 0"):
        make_domain(temperature="warm")
    with pytest.raises(UserError, match=r"domain.top_p is 0"):
        make_domain(top_p=0)
