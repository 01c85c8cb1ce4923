"""A few dozen updates of every method of this family, as it is configured and with its options."""

import pytest

from unirl.config import compose
from unirl.errors import UserError
from unirl.run import build

SMALL = ["model.hidden=[8]", "out=unused", "task=inverted_pendulum"]
REPLAY = ["method.source.warmup=300", "method.source.batch=32"]
TSALLIS = (
    "method.regularizers=[{name: tsallis, to: null, index: 1.5, variant: released, coef: 0.2},"
    " {name: tsallis, to: prev, index: 1.5, variant: released, coef: 0.8}]",
    "method.critic.0.tsallis={index: 1.5, variant: released}",
)
RUNS = {
    "a2c": (["method=a2c"], 5, {"policy", "value"}),
    "trpo": (["method=trpo", "method.source.rows=256", "method.update.epochs=4"], 1, {"policy", "value", "policy/kl"}),
    "mdpo": (["method=mdpo", "method.source.rows=256"], 1, {"policy", "value"}),
    "ddpg": (["method=ddpg", *REPLAY], 24, {"policy", "q"}),
    "mdpo_off": (["method=mdpo_off", *REPLAY], 24, {"policy", "q", "value"}),
    "mdpo_off, Tsallis as released": (["method=mdpo_off", *REPLAY, *TSALLIS], 24, {"policy", "q", "value"}),
    "mdpo_off, divergence in the value": (
        ["method=mdpo_off", *REPLAY, "method.critic.0.proximal={prev: 0.8}"],
        24,
        {"policy", "q", "value"},
    ),
    "mdpo_off, choices": (["method=mdpo_off", *REPLAY, "task=gymnasium"], 24, {"policy", "q", "value"}),
    "pmoe": (["method=pmoe", *REPLAY], 24, {"policy", "q", "temperature"}),
    "dqn": (["method=dqn", *REPLAY, "task=gymnasium"], 24, {"q"}),
    "dqn, double": (["method=dqn", *REPLAY, "task=gymnasium", "method.critic.target_policy=false"], 24, {"q"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_it_trains_what_it_should(run):
    words, iterations, losses = RUNS[run]
    trainer = build(compose([*SMALL, *words]), None)
    for _ in range(iterations):
        trainer.iterate()
    assert {name.removeprefix("loss/") for name in trainer._means.take() if name.startswith("loss/")} == losses


def test_a_tsallis_divergence_of_fresh_decisions_is_not_for_choices():
    overrides = ["method=mdpo_off", "method.regularizers=[{name: tsallis, to: prev, index: 2.0}]", "task=gymnasium"]
    with pytest.raises(UserError, match="needs densities of continuous actions"):
        build(compose([*SMALL, *overrides]), None)
