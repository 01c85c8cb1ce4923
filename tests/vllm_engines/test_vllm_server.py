"""A vLLM server on this machine: started, given weights, sampled from, shared by mistake, killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from torch.testing import assert_close
from vllm_stub import TOLERANCE, Policy, by_hand, largest_error, network, prompts, sampling, seeded, tokenizer

from unirl.errors import UserError
from unirl.llm.rollout.parity import Parity
from unirl.llm.truncation import Truncation
from unirl.registry import make

START_SECONDS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    folder = tmp_path_factory.mktemp("served")
    network(seed=9).save_pretrained(folder / "model")  # not the policy: its weights come by update
    tokenizer().save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--port {port} --dtype float32 --enforce-eager --kv-cache-memory-bytes 100000000"
    options += " --enable-lora --max-lora-rank 8"
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "unirl.llm.rollout.serve", str(folder / "model"), *options.split()],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, folder / "log.txt")
        yield url, process
    finally:
        _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url + "/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not start:\n" + log.read_text()[-3000:])


def _end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    """End the server with the processes that it started."""
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        return
    process.wait(60)


def opened(url: str, policy: Policy, **options: Any) -> Any:
    engine = make("engine", "vllm_server", url=url, **options)
    engine.open(policy.variants, tokenizer(), None)
    engine.update_weights(policy.variants.weights(), policy.version)
    return engine


def test_its_log_probabilities_are_the_networks_own_before_and_after_updates(server: Any, tmp_path: Path) -> None:
    policy = Policy.make()
    engine = opened(server[0], policy, folder=str(tmp_path))
    for _ in range(3):
        asked = prompts(6, length=200)  # more than a block of 128 tokens, which vLLM remembers
        found = engine.generate(asked, 3, sampling(), seeded())
        assert largest_error(policy, asked, found, sampling()) < TOLERANCE
        assert torch.equal(found.version, torch.full((18, 24), policy.version))
        policy.learn(engine)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # read, and deleted
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_truncation_stops_and_the_likeliest_tokens(server: Any) -> None:
    policy = Policy.make()
    wanted = sampling(
        stop=tuple(range(40)), temperature=0.8, truncation=Truncation(top_k=30, top_p=0.9, min_p=0.01), top_logprobs=4
    )
    engine = opened(server[0], policy)
    found = engine.generate(prompts(), 4, wanted, seeded())
    assert largest_error(policy, prompts(), found, wanted) < TOLERANCE
    assert found.ended.any() and not found.ended.all()
    again = engine.generate(prompts(), 4, wanted, seeded())
    assert torch.equal(found.tokens, again.tokens)
    length = int(found.mask[0].sum())
    expected = by_hand(policy.logits(prompts()[0], found.tokens[0, :length]), 0.8, wanted.truncation)
    assert_close(found.top_logp[0, :length], expected.topk(4).values, atol=TOLERANCE, rtol=0)
    engine.close()


def test_an_update_without_the_tied_output_projection_is_found_out(server: Any) -> None:
    policy = Policy.make()
    engine = opened(server[0], policy)
    engine._parity = Parity("vllm_server", None)
    with torch.no_grad():
        policy.variants.weights()["lm_head.weight"].mul_(-1)
    incomplete = {name: weight for name, weight in policy.variants.weights().items() if name != "lm_head.weight"}
    with pytest.raises(UserError, match="does not sample from the policy that is trained"):
        engine.update_weights(incomplete, 1)
    engine.close()


def test_adapters_follow_the_policy(server: Any) -> None:
    policy = Policy.make(lora=4)
    engine = opened(server[0], policy)
    for _ in range(3):
        found = engine.generate(prompts(4), 2, sampling(), seeded())
        assert largest_error(policy, prompts(4), found, sampling()) < TOLERANCE
        policy.learn(engine)
    engine.close()


def test_a_server_that_another_run_has_taken_over_is_not_sampled_from(server: Any) -> None:
    first = opened(server[0], Policy.make())
    second = opened(server[0], Policy.make(seed=1))
    with pytest.raises(UserError, match="has other weights than this run gave it"):
        first.generate(prompts(1), 1, sampling(), seeded())
    second.generate(prompts(1), 1, sampling(), seeded())


def test_a_file_that_the_server_cannot_read_is_one_line(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(server[0], Policy.make())
    monkeypatch.setattr("unirl.llm.rollout.vllm_server._save", lambda state, path: path.touch())
    with pytest.raises(UserError, match=r"refused /update_weights with status 500"):
        engine.update_weights({}, 1)


def test_a_server_that_dies_is_one_line(server: Any) -> None:
    """The last test of the file: it ends the server."""
    url, process = server
    engine = opened(url, Policy.make())
    _end(process)
    for call in (
        lambda: engine.generate(prompts(1), 1, sampling(), seeded()),
        lambda: engine.update_weights({}, 1),
        lambda: opened(url, Policy.make()),
    ):
        with pytest.raises(UserError, match=r"no vLLM server answers at .*refused.*unirl resume"):
            call()
