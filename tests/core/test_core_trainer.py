import json
import math
import random

import numpy as np
import pytest
import torch
from toy_domain import ToyDomain

from unirl import Batch
from unirl.config import method_config
from unirl.domain import Domain
from unirl.errors import NonFiniteError, UserError
from unirl.method import Method
from unirl.optim import make_update
from unirl.registry import make
from unirl.trainer.checkpoint import read_checkpoint
from unirl.trainer.loop import Schedule, Trainer
from unirl.trainer.nonfinite import nonfinite_values
from unirl.trainer.progress import SilentProgress
from unirl.trainer.statefile import load_state

SOURCES = {
    "online": {"name": "online", "rows": 64, "group_size": 8},
    "replay": {"name": "replay", "warmup": 200, "batch": 64},
    "offline": {"name": "offline", "batch": 64},
    "preference": {"name": "preference", "batch": 32},
    "hybrid": {"name": "hybrid", "warmup": 200, "batch": 64},
    "history": {"name": "online", "rows": 64, "group_size": 8, "history": 3},
}
# method -> (source, learning rate, iterations): every shipped method that runs on one-step rows
RUNS = {
    "reinforce": ("online", 0.05, 100),
    "rloo": ("online", 0.05, 100),
    "grpo": ("online", 0.05, 100),
    "ppo": ("online", 0.05, 100),
    "mdpo": ("online", 0.05, 100),
    "awr": ("online", 0.05, 100),
    "sac": ("replay", 0.02, 800),
    "mdpo_off": ("replay", 0.02, 800),
    "iql": ("offline", 0.02, 600),
    "bc": ("offline", 0.02, 300),
    "dpo": ("preference", 0.02, 200),
    "ipo": ("preference", 0.02, 200),
    "inpo": ("online", 0.02, 100),
}


def trainer(method: str, folder, seed: int = 0, source: str | None = None, update=None, **schedule) -> Trainer:
    kind, lr, iterations = RUNS[method]
    torch.manual_seed(seed)
    domain = ToyDomain(seed)
    made = Method.from_config(method_config(method), domain.info)
    domain.build(made.requirements)
    options = dict(SOURCES[source or kind])
    drawn = make("source", options.pop("name"), **options)
    drawn.start(domain, seed)
    parameters = {name: domain.parameters(name) or made.parameters(name) for name in made.losses_in_order}
    return Trainer(
        domain=domain,
        method=made,
        source=drawn,
        update=make_update({"lr": lr, **(update or {})}, parameters),
        schedule=Schedule(**{"iterations": iterations, "evaluations": 4, "logs": 10, **schedule}),
        folder=folder,
        progress_sink=SilentProgress(),
        seed=seed,
    )


def lines(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_the_toy_satisfies_the_domain_protocol():
    assert isinstance(ToyDomain(), Domain)


@pytest.mark.parametrize("method", RUNS)
def test_every_source_and_loss_finds_the_better_action(method, tmp_path):
    # start: mean 0, variance 1, score -2. Data of bc and iql: uniform actions on [0, 2], imitation alone gives -1/3.
    run = trainer(method, tmp_path)
    run.run()
    assert run.scores[0] == pytest.approx(-2.0)
    assert run.scores[-1] > -1.5, run.scores


def test_hybrid_mixes_recorded_rows_with_its_own(tmp_path):
    run = trainer("sac", tmp_path, source="hybrid")
    batch = run.source.next()
    assert batch.source.tolist().count(2) == 32
    assert len(batch) == 64


# name -> method and what else has a state: the source, the average of the weights, the rule that finds gradients
RESUMED = {
    "ppo": ("ppo", {}),
    "sac": ("sac", {}),
    "iql": ("iql", {}),
    "dpo": ("dpo", {}),
    "inpo": ("inpo", {}),
    "mixed data": ("sac", {"source": "hybrid"}),
    "several roll-outs": ("grpo", {"source": "history"}),
    "averaged weights": ("ppo", {"update": {"average": 0.9, "schedule": "cosine", "warmup": 0.3}}),
    "a schedule of the policy alone": ("sac", {"update": {"schedule": {"policy": "cosine"}}}),
    "extragradient": ("ppo", {"update": {"gradient": "extragradient", "together": True}}),
    "evolution": ("grpo", {"update": {"gradient": {"name": "evolution", "pairs": 2}}}),
    "delayed policy": ("sac", {"update": {"actor_every": 2}, "logs": 40}),
    "shuffled minibatches": ("ppo", {"minibatches": 4, "epochs": 2}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(case, tmp_path):
    method, options = RESUMED[case]
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    uninterrupted = trainer(method, whole, **{"iterations": 40, **options})
    uninterrupted.run()

    stopped = trainer(method, part, **{"iterations": 40, **options})
    stopped._evaluate()
    for _ in range(23):  # stop in the middle, with lines written after the checkpoint
        before = stopped.progress
        stopped.iterate()
        stopped._report(before, stopped.progress)
        if stopped.iteration == 17:
            stopped.checkpoint()

    resumed = trainer(method, part, seed=5, **{"iterations": 40, **options})
    resumed.load_state_dict(read_checkpoint(part))
    resumed.run()
    for name, value in uninterrupted.domain.policy.state_dict().items():
        assert torch.equal(value, resumed.domain.policy.state_dict()[name])
    assert lines(whole) == lines(part)


def test_the_budget_ends_by_samples_or_iterations_whichever_is_first():
    schedule = Schedule(samples=100, iterations=10)
    assert schedule.progress(50, 2) == 0.5
    assert schedule.progress(10, 9) == 0.9
    assert schedule.progress(1000, 1) == 1.0
    with pytest.raises(UserError, match="budget"):
        Schedule()
    with pytest.raises(UserError, match="evaluations"):
        Schedule(iterations=1, evaluations=-1)


def test_a_method_for_another_domain_is_refused():
    info = ToyDomain().info
    with pytest.raises(UserError, match="method 'grpo_text' is for llm, not for control"):
        Method.from_config({**method_config("grpo"), "name": "grpo_text", "domains": ["llm"]}, info)


def test_a_misspelt_method_key_and_a_missing_anchor_are_one_clear_error():
    info = ToyDomain().info
    with pytest.raises(UserError, match=r"unknown method key 'objectiv' \(did you mean objective"):
        Method.from_config({"objectiv": "ppo_clip"}, info)
    config = {"objective": "policy_gradient", "regularizers": [{"name": "kl", "to": "ref", "coef": 0.1}]}
    with pytest.raises(UserError, match=r"needs the anchor 'ref'; add `anchors: \{ref: \{\}\}`"):
        Method.from_config(config, info)


def _breaking(drawn, after: int):
    """A source whose batches have one reward that is NaN from draw `after` on."""
    count, draw = 0, drawn.next

    def draw_broken():
        nonlocal count
        count += 1
        batch = draw()
        if count > after:
            reward = batch.reward.clone()
            reward[3] = torch.nan
            batch = batch.replace(reward=reward)
        return batch

    drawn.next = draw_broken
    return drawn


@pytest.mark.parametrize(("method", "loss"), [("ppo", "value"), ("sac", "q")])
def test_a_loss_that_is_no_number_stops_before_the_step_and_keeps_the_batch(method, loss, tmp_path):
    run = trainer(method, tmp_path, iterations=40)
    _breaking(run.source, 20)
    with pytest.raises(UserError, match=rf"iteration 20: loss/{loss} nan.*not finite: .*reward \(1 values\)"):
        run.run()
    for parameter in [*run.domain.policy.parameters(), run.domain.value, run.domain.critic]:
        assert parameter.isfinite().all()
    assert read_checkpoint(tmp_path)["iteration"] == 20
    kept = Batch(**load_state(tmp_path / "nonfinite"))
    assert nonfinite_values(kept)["reward"] == 1
    report = json.loads((tmp_path / "nonfinite" / "report.json").read_text())
    assert report["iteration"] == 20
    assert report["losses"][loss] == "nan"
    assert report["nonfinite_fields"]["reward"] == 1


def test_a_gradient_that_is_no_number_is_noticed_though_the_loss_is_one(tmp_path):
    # sqrt has an infinite slope at 0: the loss is 0, its gradient is inf * 0 = nan
    weight = torch.nn.Parameter(torch.zeros(1))
    update = make_update({"lr": 0.1}, {"policy": [weight]})

    def closure(names):
        loss = (weight.square().sqrt() * 1.0).sum()
        loss.backward()
        return {"policy": loss.detach()}

    with pytest.raises(NonFiniteError) as caught:
        update(closure)
    assert caught.value.losses == {"policy": 0.0}
    assert math.isnan(caught.value.gradient_norm)
    assert weight.item() == 0.0


def test_an_evaluation_that_is_no_number_is_one_clear_error(tmp_path):
    run = trainer("ppo", tmp_path, iterations=40)
    run.domain.evaluate = lambda episodes: {"score": math.nan}
    with pytest.raises(UserError, match="iteration 0: the evaluation's score is nan; the environment or verifier"):
        run.run()


def test_generators_of_the_process_survive_a_restart(tmp_path):
    first = trainer("ppo", tmp_path, iterations=4)
    state = first.state_dict()
    drawn = (random.random(), np.random.random(), torch.rand(1).item())
    first.load_state_dict(state)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn
