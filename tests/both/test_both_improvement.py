"""What Symphony leaves for texts: temporal advantages, squashed, and rectified errors of token values."""

from unirl.config import compose
from unirl.run import train

LANGUAGE = ["task=addition", "evaluation_episodes=400", "evaluations=1", "checkpoints=0", "method.source.rows=128"]
ADVANTAGE = "[{name: gae, gamma: 1.0, lam: 1.0}, {name: temporal, squash: true}]"
CRITIC = "{name: v, loss: rectified_huber, target: returns, coef: 0.5}"


def rise(folder, *words):
    """By how much the accuracy rises; evaluation repeats its prompts and draws, so 0 without learning."""
    result = train(compose([*words, *LANGUAGE, f"out={folder / 'run'}"]))
    return result["score_end"] - result["score_start"]


def test_temporal_advantages_and_rectified_value_errors_train_a_language_model(tmp_path):
    words = ["method=reinforce", f"method.advantage={ADVANTAGE}", f"+method.critic={CRITIC}", "iterations=10"]
    assert rise(tmp_path, *words) > 0.02  # .055 and .060 with seeds 0 and 1
