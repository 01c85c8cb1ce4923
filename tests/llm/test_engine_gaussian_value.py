"""Token values with a spread: what the head says, and PPO with a Gaussian critic in place of the squared error."""

import pytest
import torch
from engine_stub import network
from test_engine_scoring import padded_batch
from torch.testing import assert_close

from unirl.config import compose
from unirl.errors import UserError
from unirl.llm.models import value_head
from unirl.llm.scoring import Scorer
from unirl.llm.variants import variants_of
from unirl.run import build, train

PPO = ["method=ppo", "task=addition"]


def test_the_spread_is_the_softplus_of_the_heads_second_output() -> None:
    model = network(dtype=torch.float64)
    head = value_head(model, spread=True)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    batch, rows = padded_batch()
    found = Scorer(variants_of(model), head)(batch, {"value_pred", "value_pred_std", "value"})
    for i, (prompt, response) in enumerate(rows):
        hidden = model.model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1 : -1]
        mean, raw = head(hidden).unbind(-1)
        assert_close(found["value_pred"][i, : len(response)], mean)
        assert_close(found["value_pred_std"][i, : len(response)], torch.nn.functional.softplus(raw))
        assert (found["value_pred_std"][i, len(response) :] == 0).all()
    assert found["value_pred_std"].requires_grad and not found["value"].requires_grad


def test_a_spread_without_a_head_for_it_is_refused() -> None:
    model = network()
    with pytest.raises(UserError, match="needs a critic that asks for a spread"):
        Scorer(variants_of(model), value_head(model)).check({"value_pred_std"})


def words(loss: str, out: object, iterations: int) -> list[str]:
    """PPO whose value loss is replaced on the command line."""
    critic = ["method.critic.name=gaussian_v", f"method.critic.loss={loss}"]
    return [*PPO, *critic, f"iterations={iterations}", "evaluations=1", "checkpoints=0", f"out={out}"]


@pytest.mark.parametrize("loss", ["variance_scaled", "nll"])
def test_ppo_fits_mean_and_spread_of_token_values(loss, tmp_path) -> None:
    cheap = ["method.source.rows=32", "evaluation_episodes=8"]
    trainer = build(compose([*words(loss, tmp_path / "run", 1), *cheap]), None)
    assert trainer.domain.value_head.weight.abs().sum() == 0
    trainer.iterate()
    assert (trainer.domain.value_head.weight.abs().sum(1) > 0).all()
    assert trainer.method.critics[0].registered_name == "gaussian_v"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("loss", ["variance_scaled", "nll"])
def test_ppo_with_a_gaussian_critic_learns_to_add(loss, seed, tmp_path) -> None:
    # a run without learning has a rise of 0 by construction: evaluation repeats its prompts and draws
    result = train(compose([*words(loss, tmp_path / "run", 15), f"seed={seed}"]))
    assert result["score_end"] - result["score_start"] > 0.05
