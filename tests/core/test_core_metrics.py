import json
import math

import pytest
import torch
from helpers import rows

from unirl.trainer.diagnostics import policy_diagnostics
from unirl.trainer.metrics import Means, MetricsFile


def test_means_start_again_when_taken():
    means = Means()
    means.add({"loss": torch.tensor(1.0), "norm": 4.0})
    means.add({"loss": torch.tensor(2.0)})
    assert means.take() == {"loss": 1.5, "norm": 4.0}
    assert means.take() == {}


def test_means_survive_a_restart():
    means, other = Means(), Means()
    means.add({"loss": torch.tensor(1.0)})
    other.load_state_dict(means.state_dict())
    other.add({"loss": 3.0})
    assert other.take() == {"loss": 2.0}


def test_a_metrics_file_is_cut_back_to_what_a_checkpoint_knew(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(3):
        file.write({"step": step, "loss": math.nan if step == 1 else 0.5})
    file.cut(2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 0, "loss": 0.5}, {"step": 1, "loss": None}]
    assert file.lines == 2


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_line_that_was_torn_by_a_kill_is_cut_off(tmp_path, known):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "lo')
    file = MetricsFile(path)
    file.cut(known)
    file.write({"step": 9})
    kept = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert kept == [*range(min(known, 2)), 9]
    assert file.lines == len(kept)


def test_diagnostics_by_hand():
    # ratios 1.5 (clipped at 1.2) and 1; k3 of KL(old to new): r - 1 - log r = .5 - .405465 and 0; the third is masked
    batch = rows(
        logp=[[math.log(1.5), 0.0, 9.0]],
        old_logp=[[0.0, 0.0, 0.0]],
        entropy=[[1.0, 2.0, 50.0]],
        mask=torch.tensor([[True, True, False]]),
    )
    found = policy_diagnostics(batch, (0.2, 0.2))
    assert found["policy/clip_fraction"].item() == 0.5
    assert math.isclose(found["policy/kl_old"].item(), (0.5 - math.log(1.5)) / 2, rel_tol=1e-9)
    assert found["policy/entropy"].item() == 1.5
