"""SAC's dual controller of the entropy, on tokens."""

import pytest

from unirl.config import compose
from unirl.run import build


@pytest.mark.parametrize(("target", "rises"), [(0.01, False), (5.0, True)])
def test_the_temperature_holds_a_language_models_entropy_at_its_target(target, rises):
    # nats per token: the tiny model's entropy lies between the targets
    auto = f"{{name: auto, initial: 0.1, estimator: exact, target: {target}}}"
    words = ["method=reinforce", "task=addition", "method.source.rows=16", "out=unused"]
    trainer = build(compose([*words, f"method.regularizers=[{{name: entropy, coef: {auto}}}]"]), None)
    for _ in range(3):
        trainer.iterate()
    measured = trainer._means.take()
    assert 0.01 < measured["policy/entropy"] < 5.0
    (strength,) = trainer.method.coefficients(0.0).values()
    assert (strength > 0.1) == rises
