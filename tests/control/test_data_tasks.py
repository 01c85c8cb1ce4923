import pytest

from unirl.config import choices, compose, group_config
from unirl.control.data.collect import collect, make_continuous
from unirl.control.data.d4rl import PUBLIC_FILES
from unirl.control.data.dataset import DataOptions
from unirl.control.data.scores import reference_scores
from unirl.errors import UserError
from unirl.run import train

TASKS = [name for name in choices("task") if name.startswith("d4rl/")]


def test_every_locomotion_dataset_has_a_task():
    wanted = {
        f"d4rl/{env}-{kind}-v2"
        for env in ("halfcheetah", "hopper", "walker2d", "ant")
        for kind in ("random", "medium", "medium-replay", "medium-expert", "expert")
    }
    assert wanted == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_names_its_own_public_file_and_environment(name):
    task = group_config("task", name)
    assert task["data"] == name and name.removeprefix("d4rl/") in PUBLIC_FILES
    assert reference_scores(task["env"]) == reference_scores(name)
    columns = DataOptions.of(task["data_options"]).observation_columns
    if columns is not None:
        assert make_continuous(task).observation_space.shape == (columns,)
    assert task["preferences"]["from"] == "data" and task["budget"]["offline"]["iterations"] == 1_000_000


def test_a_trained_run_collects_data(tmp_path):
    sizes = ["iterations=3", "evaluations=1", "evaluation_episodes=1", f"out={tmp_path / 'run'}"]
    train(compose(["method=bc", "task=inverted_pendulum", *sizes, "task.demonstrations={episodes: 1}"]))
    made = collect(
        {"env": "InvertedPendulum-v5"}, tmp_path / "run.hdf5", str(tmp_path / "run"), steps=20, progress=False
    )
    assert made.transitions == 20
    words = "trained on InvertedPendulum-v5, which has 4 observations and 1 actions; Hopper-v5 has 11 observations"
    with pytest.raises(UserError, match=words):
        collect({"env": "Hopper-v5"}, tmp_path / "x.hdf5", str(tmp_path / "run"), steps=5, progress=False)
    (tmp_path / "no run").mkdir()
    with pytest.raises(UserError, match="is not a run folder"):
        collect({"env": "Hopper-v5"}, tmp_path / "x.hdf5", str(tmp_path / "no run"), steps=5, progress=False)
