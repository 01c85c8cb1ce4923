"""With LoRA vLLM gets the adapter alone, a new one per version."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_stub import TOLERANCE, Policy, largest_error, opened, prompts, sampling, seeded, tokenizer

from unirl.errors import UserError
from unirl.llm.rollout.parity import Parity
from unirl.registry import make


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.make(lora=4)


@pytest.fixture(scope="module")
def engine(policy: Policy) -> Iterator[Any]:
    with opened(policy) as made:
        yield made


def test_every_version_of_an_adapter_is_sampled_from(engine: Any, policy: Policy) -> None:
    asked = prompts(4, length=300)  # several blocks of 128 tokens, which vLLM remembers
    seen = []
    for _ in range(4):
        found = engine.generate(asked, 2, sampling(), seeded())
        assert largest_error(policy, asked, found, sampling()) < TOLERANCE
        seen.append(found.tokens)
        policy.learn(engine)
    assert not any(torch.equal(seen[i], seen[i + 1]) for i in range(3))


def test_only_two_versions_of_an_adapter_are_kept(engine: Any, policy: Policy) -> None:
    for _ in range(3):
        policy.learn(engine, size=0.01)
    assert len(list(Path(engine._folder.name).glob("adapter_*"))) == 2
    assert len(engine._llm.llm_engine.list_loras()) == 1


def test_an_adapter_that_was_not_taken_over_is_found_out(engine: Any, policy: Policy) -> None:
    engine._parity = Parity("vllm", None)
    forgotten = {name: torch.zeros_like(weight) for name, weight in policy.variants.weights().items()}
    with pytest.raises(UserError, match="does not sample from the policy that is trained"):
        engine.update_weights(forgotten, 1000)
    policy.learn(engine)


def test_a_rank_beyond_vllms_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.lora.rank is 600; vLLM takes at most 512"):
        make("engine", "vllm").open(Policy.make(lora=600).variants, tokenizer(), None)
