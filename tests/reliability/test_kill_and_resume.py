"""Real processes, killed with SIGKILL at seeded random moments: the resumed run is the undisturbed one, bit for bit."""

import random

import pytest
from kill_hooks import IN_A_CHECKPOINT
from kill_runs import (
    RUNS,
    Moment,
    Training,
    differences,
    kill_chain,
    make_dataset,
    metrics,
    table,
    totals,
    whole_run,
    words_for,
)

CHAINS = {  # run -> moments: before the first iteration, inside one, inside a checkpoint's write
    "sac": [Moment(-1), Moment(60), Moment(100, "state.json half written")],
    "grpo": [Moment(4, "old one half removed"), Moment(7)],
}


@pytest.mark.parametrize("run", CHAINS)
def test_a_killed_and_resumed_run_equals_the_undisturbed_one_bit_for_bit(run, tmp_path):
    kills = kill_chain(run, CHAINS[run], 0, tmp_path, random.Random(0))
    assert [kill.phase for kill in kills] == [moment.phase for moment in CHAINS[run]]
    assert all(kill.metrics_equal and kill.state_equal for kill in kills), kills


def test_the_comparison_sees_another_seed(tmp_path):
    whole, other = whole_run("ppo", tmp_path), tmp_path / "other"
    assert Training([*words_for("ppo", other), "seed=1"], tmp_path / "log.txt").wait() == 0
    assert metrics(whole) != metrics(other)
    assert {"/generator", "/generators/torch"} < set(differences(whole, other))


@pytest.mark.slow
@pytest.mark.parametrize("phase", IN_A_CHECKPOINT)
def test_a_kill_at_every_point_of_a_write(phase, tmp_path):
    make_dataset(tmp_path / "recorded.hdf5")
    kills = kill_chain("td3_bc", [Moment(50, phase), Moment(50, phase)], 0, tmp_path, random.Random(0))
    assert len(kills) == 2
    assert all(kill.metrics_equal and kill.state_equal for kill in kills), kills


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_twenty_kills_change_nothing(run):
    found = totals(table(run, 20, random.Random(1)))[run]
    assert found["kills"] == found["metrics equal"] == found["weights and all other state equal"] == 20
    assert found["inside a checkpoint"] >= 5
