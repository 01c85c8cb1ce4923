"""vLLM as a server: other processes, other GPUs, or another machine that shares a folder with this one."""

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.llm.rollout.adapter_folder import AdapterFolder
from unirl.llm.rollout.engine import Responses, Sampling
from unirl.llm.rollout.parity import Parity
from unirl.llm.rollout.vllm_answers import Answer, check_request, responses, seeds
from unirl.registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unirl.llm.variants import Variants

START = "python -m unirl.llm.rollout.serve MODEL"
RESUME = "a run that has begun keeps its checkpoints and goes on with `unirl resume`"
SHARED_MEMORY = Path("/dev/shm")
RULED_OUT = -9999.0  # what the server writes for minus infinity, which JSON does not have


@register("engine", "vllm_server")
class VllmServer:
    """A running vLLM server, started by `python -m unirl.llm.rollout.serve MODEL`, whose weights follow the policy.

    Weights travel through a file in a folder that both sides can read. With LoRA the base does so once, and then only
    the adapter (start the server with `--enable-lora --max-lora-rank RANK`). After the first updates its
    log-probabilities are compared with the trainer's own (`unirl.llm.rollout.parity`). The same seeds are sent for the
    same generator state, but how the server batches requests depends on their timing: rounding may differ between two
    calls, and a token with it.

    `url`: the server's address. `folder`: where weights are written; null: this machine's shared memory. `timeout`:
    seconds that it may take to answer. `at_once`: requests that it is sent at a time, one per prompt. `tolerance`: nats
    per token by which its log-probabilities may differ, on the average; null takes 0.001 for float32 and 0.05 for 16
    bits. Greedy decoding reports log-probabilities at temperature 1, over the whole vocabulary.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        folder: str | None = None,
        timeout: float = 600.0,
        at_once: int = 64,
        tolerance: float | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"domain.engine.url is '{url}'; it must start with http:// or https://")
        if not timeout > 0 or at_once < 1:
            raise UserError("domain.engine.timeout must be above 0, and domain.engine.at_once at least 1")
        self.folder, self.at_once = folder, at_once
        self._http = _Http(url.rstrip("/"), timeout)
        self._parity = Parity("vllm_server", tolerance)
        self._version = self._updates = 0
        self._written: Path | None = None

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._version

    def open(self, variants: "Variants", tokenizer: "PreTrainedTokenizerBase", path: str | None) -> None:
        """See `Engine.open`. Raises `UserError` if no server answers, or one that takes no weights."""
        from unirl.llm.variants import POLICY

        self._variants = variants
        self._session = uuid.uuid4().hex[:12]  # tells this run's weights from those of another
        with variants.using(POLICY) as network:
            self._device = network.device
        served = self._http.get("/v1/models")["data"][0]
        self._model, self._longest = served["id"], int(served["max_model_len"])
        self._http.post("/init_weight_transfer_engine", {"init_info": {}})
        shared = Path(self.folder) if self.folder else SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self._temporary = tempfile.TemporaryDirectory(prefix="unirl-weights-", dir=shared)  # gone with this process
        self._written = Path(self._temporary.name)
        self._written.chmod(0o755)  # the server may belong to somebody else
        self._adapters = AdapterFolder(self._written)
        self._adapter: str | None = None
        self._label: str | None = None
        if variants.adapter is not None:
            self._send_weights(variants.base())

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """See `Engine.update_weights`. Raises `UserError` if the server then samples from something else."""
        self._updates += 1
        if self._variants.adapter is None:
            self._send_weights(state)
        else:
            self._send_adapter(state)
        self._version = version
        self._parity.check(self._variants, self.generate, version)

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, generator: torch.Generator
    ) -> Responses:
        """See `Engine.generate`.

        Raises `UserError` for prompts without room for a response, if the server does not answer, and if it has other
        weights than it was given: it was started anew, or serves another run.
        """
        if self._written is None:
            raise RuntimeError("open the engine before it generates")
        check_request("vllm_server", prompts, sampling, self._longest)
        self._check_label()
        chosen = seeds(len(prompts), sampling, generator)
        bodies = [self._body(prompt, n, sampling, seed) for prompt, seed in zip(prompts, chosen, strict=True)]
        with ThreadPoolExecutor(self.at_once) as threads:
            found = list(threads.map(lambda body: self._http.post("/v1/completions", body), bodies))
        answers = [
            _answer(choice, sampling.top_logprobs)
            for reply in found
            for choice in sorted(reply["choices"], key=lambda choice: choice["index"])
        ]
        return responses(answers, sampling, self._version, self._device)

    def close(self) -> None:
        """See `Engine.close`. The server goes on running."""
        if self._written is not None:
            self._temporary.cleanup()
            self._written = None

    def _body(self, prompt: Sequence[int], n: int, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        truncation = sampling.truncation
        return {
            "model": self._adapter or self._model,
            "prompt": list(prompt),
            "n": n,
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_k": 0 if sampling.greedy else truncation.top_k,
            "top_p": 1.0 if sampling.greedy else truncation.top_p,
            "min_p": 0.0 if sampling.greedy else truncation.min_p,
            "seed": seed,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop),
            "ignore_eos": True,  # it is among `stop`, where it ends a response
            "logprobs": sampling.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def _check_label(self) -> None:
        if self._http.get("/weight_info")["weight_version"] != self._label:
            raise UserError(
                f"the vLLM server at {self._http.url} has other weights than this run gave it: it was started anew, or "
                "another run uses it too; go on with `unirl resume`"
            )

    def _send_weights(self, state: Mapping[str, Tensor]) -> None:
        assert self._written is not None
        path = self._written / f"weights_{self._updates}.safetensors"
        _save(state, path)
        self._http.post("/start_weight_update")
        self._http.post("/update_weights", {"update_info": {"path": str(path)}})
        self._label = f"{self._session}:{self._updates}"
        self._http.post("/finish_weight_update", {"weight_version": self._label})
        self._http.post("/reset_prefix_cache")
        path.unlink()

    def _send_adapter(self, state: Mapping[str, Tensor]) -> None:
        config = self._variants.adapter
        assert config is not None
        path = self._adapters.write(config, state, self._updates)
        before, self._adapter = self._adapter, f"{self._session}:{self._updates}"
        self._http.post("/v1/load_lora_adapter", {"lora_name": self._adapter, "lora_path": str(path)})
        if before is not None:
            self._http.post("/v1/unload_lora_adapter", {"lora_name": before})


class _Http:
    """JSON over HTTP, where whatever goes wrong is a `UserError`."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self._timeout = url, timeout
        self._opener = build_opener(ProxyHandler({}))  # a server of one's own is not behind a proxy

    def get(self, path: str) -> Any:
        return self._call(Request(self.url + path))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode()
        return self._call(Request(self.url + path, data, {"Content-Type": "application/json"}))

    def _call(self, request: Request) -> Any:
        try:
            with self._opener.open(request, timeout=self._timeout) as reply:
                text = reply.read()
            return json.loads(text) if text.startswith((b"{", b"[")) else None
        except HTTPError as error:
            raise UserError(self._refused(request.selector, error)) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            raise UserError(
                f"no vLLM server answers at {self.url} ({reason}); start it with `{START}`; {RESUME}"
            ) from error

    def _refused(self, path: str, error: HTTPError) -> str:
        said = " ".join(error.read(400).decode(errors="replace").split())
        hint = RESUME if error.code >= 500 else f"start it with `{START}`, which allows weight updates"
        line = f"the vLLM server at {self.url} refused {path} with status {error.code}: {said or error.reason}"
        return f"{line}; {hint}" if error.code == 404 or error.code >= 500 else line


def _answer(choice: Mapping[str, Any], top: int) -> Answer:
    tokens, logp = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    ended = choice["finish_reason"] == "stop"
    if not top:
        return Answer(tokens, tokens, logp, ended)
    reported_tokens: list[int] = []
    reported_logp: list[float] = []
    for token, own, step in zip(tokens, logp, choice["logprobs"]["top_logprobs"], strict=True):
        likeliest = sorted(step.items(), key=lambda item: -item[1])[:top]
        reported_tokens += [token, *(int(name.removeprefix("token_id:")) for name, _ in likeliest)]
        reported_logp += [own, *(value if value > RULED_OUT else -torch.inf for _, value in likeliest)]
    return Answer(tokens, reported_tokens, reported_logp, ended)


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    """Write the tensors once each; the metadata says under which further names they are known."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    names: dict[tuple[int, torch.Size], str] = {}
    further: dict[str, str] = {}
    for name, weight in state.items():
        first = names.setdefault((weight.data_ptr(), weight.shape), name)
        if first == name:
            stored[name] = weight.detach().cpu().contiguous()
        else:
            further[name] = first
    save_file(stored, path, metadata=further)
