from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch
from unirl.domain import DomainInfo, Opponent
from unirl.method import Method

CONFIGS = Path(__file__).parents[2] / "configs" / "method"
METHODS = ["dpo", "ipo", "cpl", "inpo", "nash_md"]


def info(domain: str) -> DomainInfo:
    return DomainInfo(domain, "none", independent_decisions=domain == "control", target_entropy=-1.0, sample_unit="x")


def method(name: str, domain: str) -> Method:
    """The method as configured for a domain (the sections of `per_domain` laid over it)."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    layer = (config.pop("per_domain", None) or {}).get(domain, {})
    for key, value in layer.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return Method.from_config({"name": name, **config}, info(domain))


def rolled_out(logp: Tensor) -> Batch:
    """Two groups of two rows of two decisions; the second row of each group is the opponent's, the last padding."""
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]], dtype=torch.bool)
    return Batch(
        mask=mask,
        logp=logp,
        old_logp=logp.detach(),
        anchor_logp={"prev": logp.detach(), "ref": logp.detach() - 0.5},
        score=tensor([1.0, 0.0, 0.0, 1.0]),
        group=tensor([0, 0, 1, 1]),
        source=tensor([0, 1, 0, 1]),
        terminated=tensor([[False, True], [False, True], [True, False], [False, True]]),
        truncated=torch.zeros(4, 2, dtype=torch.bool),
        pairs=tensor([[0, 1], [3, 2]]),
        pair_label=torch.ones(2),
    )


@pytest.mark.parametrize("domain", ["control", "llm"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_prefers_the_better_row_in_both_domains(name, domain):
    made = method(name, domain)
    logp = torch.full((4, 2), -1.0, requires_grad=True)
    batch = made.with_divisors(made.prepare(rolled_out(logp)))
    made.losses(batch.replace(logp=logp), ["policy"])["policy"].backward()
    better, worse = logp.grad[0], logp.grad[2][:1]
    assert (better < 0).all()  # descent raises the winner's likelihood
    assert (worse > 0).all()  # and lowers the loser's
    assert logp.grad[2, 1] == 0  # padding


def test_nash_md_by_hand():
    # win rates minus 1/2: +1/2 for row 0, -1/2 for row 2. Each decision pays tau (log pi - log ref) = .008 * .5 = .004
    # for itself and what follows: advantages (.492, .496) and -.504. The sum is divided by 4 rows.
    made = method("nash_md", "llm")
    logp = torch.full((4, 2), -1.0, requires_grad=True)
    batch = made.with_divisors(made.prepare(rolled_out(logp)))
    made.losses(batch.replace(logp=logp), ["policy"])["policy"].backward()
    assert_close(logp.grad * 4, tensor([[-0.492, -0.496], [0.0, 0.0], [0.504, 0.0], [0.0, 0.0]]))


def test_inpo_by_hand():
    # pairs (0, 1) and (3, 2), targets s / 2; row sums of log pi - (2/3) log prev - (1/3) log ref are (1/3) * .5 per
    # decision: (1/3, 1/3, 1/6, 1/3). d loss / d logp of the winner: 2 (h_a - h_b - s / 2) / 2 pairs
    made = method("inpo", "llm")
    logp = torch.full((4, 2), -1.0, requires_grad=True)
    batch = made.with_divisors(made.prepare(rolled_out(logp)))
    assert batch.pairs.tolist() == [[0, 1], [3, 2]]
    made.losses(batch.replace(logp=logp), ["policy"])["policy"].backward()
    half = 6.0 / 2
    assert_close(logp.grad[:, 0], tensor([-half, half, half - 1 / 6, 1 / 6 - half]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_configurations_name_their_paper_and_source(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["domains"] == ["control", "llm"]
    assert set(config["paper"]) == {"title", "year"}
    assert config["source"]["name"] in ("preference", "online")


def test_nash_md_asks_for_the_mixture_as_its_opponent():
    source = yaml.safe_load((CONFIGS / "nash_md.yaml").read_text())["source"]
    assert Opponent(**source["opponent"]) == Opponent(anchor="ref", mixture=0.25, per_group=1)
