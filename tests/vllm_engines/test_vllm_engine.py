"""vLLM in this process: it samples from the policy, reports of it what is true, and leaves everything else alone."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from vllm.v1.engine.exceptions import EngineDeadError
from vllm_stub import (
    CONTEXT,
    TOLERANCE,
    Policy,
    by_hand,
    largest_error,
    opened,
    prompts,
    sampling,
    seeded,
    tokenizer,
)

from unirl.errors import UserError
from unirl.llm.rollout.parity import Parity, mismatch
from unirl.llm.rollout.vllm_engine import VllmEngine
from unirl.llm.truncation import Truncation
from unirl.llm.variants import POLICY
from unirl.registry import make


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.make()


@pytest.fixture(scope="module")
def engine(policy: Policy) -> Iterator[VllmEngine]:
    with opened(policy) as made:
        yield made


def test_log_probabilities_are_the_networks_own_before_and_after_updates(engine: Any, policy: Policy) -> None:
    for _ in range(4):
        found = engine.generate(prompts(), 4, sampling(), seeded())
        assert found.tokens.shape == (64, 24)
        assert found.mask.all() and not found.ended.any()
        assert torch.equal(found.version, torch.full((64, 24), policy.version)) and engine.version == policy.version
        assert largest_error(policy, prompts(), found, sampling()) < TOLERANCE
        policy.learn(engine)


def test_an_update_without_the_tied_output_projection_is_found_out(engine: Any, policy: Policy) -> None:
    engine._parity = Parity("vllm", None)
    weights = policy.variants.weights()
    assert weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr()
    with torch.no_grad():
        weights["lm_head.weight"].mul_(-1)
    del weights["lm_head.weight"]
    with pytest.raises(UserError, match=r"does not sample from the policy that is trained.*nats per token"):
        engine.update_weights(weights, 1000)
    policy.learn(engine)  # with it, the next update puts things right
    with policy.variants.using(POLICY) as network:
        assert mismatch(network, engine.generate) < TOLERANCE


def test_keys_and_values_of_old_weights_are_forgotten(engine: Any, policy: Policy) -> None:
    asked = prompts(4, length=300)  # several blocks of 128 tokens, which vLLM remembers
    for _ in range(2):
        found = engine.generate(asked, 2, sampling(), seeded())
        assert largest_error(policy, asked, found, sampling()) < TOLERANCE
        policy.learn(engine)


@pytest.mark.parametrize(
    "wanted",
    [
        sampling(temperature=0.6),
        sampling(truncation=Truncation(top_k=7)),
        sampling(truncation=Truncation(top_p=0.6), temperature=1.3),
        sampling(truncation=Truncation(min_p=0.1), temperature=0.8),
        sampling(truncation=Truncation(top_k=20, top_p=0.8, min_p=0.02), temperature=0.7),
    ],
)
def test_log_probabilities_are_those_of_the_truncated_distribution(engine: Any, policy: Policy, wanted: Any) -> None:
    found = engine.generate(prompts(), 4, wanted, seeded())
    assert largest_error(policy, prompts(), found, wanted) < TOLERANCE
    free = engine.generate(prompts(), 4, replace(wanted, truncation=Truncation(), temperature=1.0), seeded())
    assert not torch.equal(found.tokens, free.tokens)


def test_the_likeliest_tokens_are_reported_and_ruled_out_ones_are_impossible(engine: Any, policy: Policy) -> None:
    wanted = sampling(top_logprobs=5, truncation=Truncation(top_k=3))
    found = engine.generate(prompts(2), 1, wanted, seeded())
    for row, prompt in enumerate(prompts(2)):
        expected = by_hand(policy.logits(prompt, found.tokens[row]), truncation=wanted.truncation)
        assert_close(found.top_logp[row], expected.topk(5).values, atol=TOLERANCE, rtol=0)
        assert torch.equal(found.top_tokens[row, :, :3], expected.topk(3).indices)
        assert bool((found.top_logp[row, :, 3:] == -torch.inf).all())


def test_the_same_generator_gives_the_same_tokens(engine: Any) -> None:
    generator = seeded()
    first = engine.generate(prompts(), 4, sampling(), generator)
    second = engine.generate(prompts(), 4, sampling(), generator)
    again = engine.generate(prompts(), 4, sampling(), seeded())
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.logp, again.logp)
    assert not torch.equal(first.tokens, second.tokens)
    assert len({tuple(row) for row in first.tokens.tolist()}) == 64  # the answers to one prompt differ as well


def test_prompts_that_do_not_fit_into_one_prefill_repeat_too(engine: Any) -> None:
    asked = prompts(64, length=200)  # 12,800 tokens; with chunks, a seed would make vLLM fail
    both = [engine.generate(asked, 1, sampling(max_new_tokens=4), seeded()) for _ in range(2)]
    assert torch.equal(both[0].tokens, both[1].tokens)


def test_a_stop_token_ends_a_response_and_is_part_of_it(engine: Any) -> None:
    stop = tuple(range(1, 60))
    found = engine.generate(prompts(), 4, sampling(stop=stop), seeded())
    assert found.ended.any() and not found.ended.all()
    lengths = found.mask.sum(1)
    last = found.tokens[torch.arange(64), lengths - 1]
    assert torch.equal(torch.isin(last, torch.tensor(stop)), found.ended)
    assert bool((lengths[~found.ended] == 24).all())
    assert bool((found.tokens[~found.mask] == 0).all()) and bool((found.logp[~found.mask] == 0).all())


def test_the_end_of_sequence_token_is_a_token_unless_it_is_among_the_stops(engine: Any, policy: Policy) -> None:
    found = engine.generate(prompts(64), 8, sampling(), seeded())
    assert bool((found.tokens == 1).any()) and found.mask.all()


def test_greedy_takes_the_likeliest_tokens_and_draws_nothing(engine: Any, policy: Policy) -> None:
    generator = seeded()
    found = engine.generate(prompts(4), 1, sampling(greedy=True, temperature=0.5), generator)
    assert torch.equal(generator.get_state(), seeded().get_state())
    for row, prompt in enumerate(prompts(4)):
        assert torch.equal(policy.logits(prompt, found.tokens[row]).argmax(-1), found.tokens[row])


def test_a_prompt_that_ends_inside_a_response_is_continued_from_there(engine: Any) -> None:
    whole = engine.generate(prompts(4), 1, sampling(greedy=True), seeded())
    begun = [[*prompt, *row[:10].tolist()] for prompt, row in zip(prompts(4), whole.tokens, strict=True)]
    rest = engine.generate(begun, 1, sampling(greedy=True, max_new_tokens=14), seeded())
    assert torch.equal(rest.tokens, whole.tokens[:, 10:])


def test_nothing_global_changes(engine: Any, policy: Policy) -> None:
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = (random.random(), np.random.rand(), torch.rand(()))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with opened(policy) as other:
        other.generate(prompts(2), 2, sampling(), seeded())
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert torch.set_num_threads is setter and torch.get_num_threads() == threads


def test_what_cannot_be_done_is_one_line(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, wanted, message in [
        ([[]], sampling(), "a prompt has no tokens"),
        (prompts(1, length=CONTEXT - 20), sampling(), f"the {CONTEXT} tokens that engine 'vllm' has room for"),
        (prompts(1), sampling(entropy=True), "does not report entropies"),
    ]:
        with pytest.raises(UserError, match=message):
            engine.generate(asked, 1, wanted, seeded())

    def dies(*args: Any, **kwargs: Any) -> None:
        raise EngineDeadError()

    monkeypatch.setattr(engine._llm, "generate", dies)
    with pytest.raises(UserError, match=r"vLLM failed while it generated: EngineDeadError"):
        engine.generate(prompts(1), 1, sampling(), seeded())


def test_models_and_options_that_vllm_refuses_are_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot compute in torch\.float64"):
        make("engine", "vllm").open(Policy.make(dtype=torch.float64).variants, tokenizer(), None)
    with pytest.raises(UserError, match=r"vLLM failed to start: .*nonsense"):
        make("engine", "vllm", options={"nonsense": 1}).open(Policy.make().variants, tokenizer(), None)


def test_sixteen_bits_pass_the_check_too() -> None:
    policy = Policy.make(dtype=torch.bfloat16, tied=False)
    with opened(policy) as engine, policy.variants.using(POLICY) as network:
        policy.learn(engine)
        assert 1e-4 < mismatch(network, engine.generate) < 0.05
