"""Loading a causal language model and its tokenizer, with or without low-rank adapters."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from unirl.errors import UserError, unknown
from unirl.llm.quiet import quiet_loading
from unirl.llm.tiny import Architecture, tiny_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
CRITICS = ("shared", "separate")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation: W + (alpha / rank) B A with B = 0 at the start (Hu et al. 2021).

    `targets`: `all-linear` (every linear layer but the output projection) or a list of module names.
    """

    rank: int = 8
    alpha: int = 16
    targets: str | list[str] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.dropout:
            raise UserError("model.lora.dropout must be 0: ratios of log-probabilities need a deterministic network")
        if self.rank < 1:
            raise UserError(f"model.lora.rank is {self.rank}; it must be at least 1")


@dataclass(frozen=True)
class ModelSettings:
    """The `model` section of a configuration.

    `path`: a model of the Hugging Face hub or a folder in its layout; without it, `name` must be `tiny`, and `seed` is
    that of its pre-training: every run starts from the same model, whatever the run's own seed.
    `critic`: `shared` reads state values off the policy's own hidden states by a linear head (the value loss also
    moves the trunk); `separate` trains a copy of the trunk (with LoRA: an adapter of its own) under the head.
    `liger`: fused kernels of the package liger-kernel for norms, rotary positions and gated layers (CUDA only).
    """

    name: str | None = None
    path: str | None = None
    seed: int = 0
    dtype: str = "float32"
    attention: str = "sdpa"
    lora: LoraSettings | None = None
    critic: str = "separate"
    gradient_checkpointing: bool = False
    liger: bool = False

    def __post_init__(self) -> None:
        if self.path is None and self.name != "tiny":
            raise UserError("the model needs either `name: tiny` or `path: <hub id or folder>`")
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        if self.critic not in CRITICS:
            raise unknown("model.critic", self.critic, CRITICS)


def model_settings(model: Mapping[str, Any]) -> ModelSettings:
    """Read the `model` section; the tiny model's sizes are left to its maker. Raises `UserError` for other keys."""
    known = {key: model[key] for key in ModelSettings.__dataclass_fields__ if key in model}
    sizes = () if known.get("path") else Architecture.__dataclass_fields__
    for key in model:
        if key not in known and key not in sizes:
            raise unknown("key of model", key, [*ModelSettings.__dataclass_fields__, *sizes])
    lora = known.get("lora")
    if isinstance(lora, Mapping):
        for key in lora:
            if key not in LoraSettings.__dataclass_fields__:
                raise unknown("key of model.lora", key, LoraSettings.__dataclass_fields__)
        known["lora"] = LoraSettings(**lora)
    return ModelSettings(**known)


def load(
    task: Mapping[str, Any], model: Mapping[str, Any], settings: ModelSettings, seed: int, device: str
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The starting policy and its tokenizer, on `device`, in evaluation mode (dropout would change the ratios).

    Raises `UserError` where the model cannot be loaded or cannot be used: no such folder or hub model, no tokenizer,
    no end-of-sequence token, a head that is more than a linear projection.
    """
    if settings.path is None:
        with quiet_loading():
            network, tokenizer = _tiny(task, model, settings)
    else:
        network, tokenizer = read_model(str(Path(settings.path).expanduser()), settings)
    check_vocabulary(network, tokenizer)
    nn.Module.to(network, device)
    network.eval()
    if settings.liger:
        use_liger(network, device)
    check_head(network)
    if settings.gradient_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return (network if settings.lora is None else adapt(network, settings.lora, seed)), tokenizer


def use_liger(network: PreTrainedModel, device: str) -> None:
    """Let a model on a CUDA device run the fused kernels of liger-kernel.

    Only the layers: logits are computed in chunks here, so liger's losses are left out. Raises `UserError` without a
    GPU, without the package, or for a kind of model that the package does not know.
    """
    if torch.device(device).type != "cuda":
        raise UserError(f"model.liger=true needs a GPU: device=cuda, not {device}")
    try:
        package: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        raise UserError("model.liger=true needs the package 'liger-kernel': pip install liger-kernel") from error
    kind = str(network.config.model_type)
    if kind not in package.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise unknown("kind of model for model.liger", kind, package.MODEL_TYPE_TO_APPLY_LIGER_FN)
    package._apply_liger_kernel_to_instance(network, cross_entropy=False, fused_linear_cross_entropy=False)


def adapt(network: PreTrainedModel, lora: LoraSettings, seed: int) -> PeftModel:
    """Freeze the network and put a trainable adapter called `default` into it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, lora_dropout=0.0)
        try:
            adapted = get_peft_model(network, config)
        except ValueError as error:
            raise UserError(f"model.lora.targets={lora.targets}: {_line(error)}") from error
    if any("lora_" in name for name, _ in plain(adapted).get_output_embeddings().named_parameters()):
        raise UserError("model.lora.targets names the output projection, which must stay as it is; leave it out")
    return adapted.eval()


def plain(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, whether or not it carries adapters."""
    found: Any = model.base_model.model if isinstance(model, PeftModel) else model
    network: PreTrainedModel = found
    return network


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Pad with the end-of-sequence token where there is no other; raises `UserError` where there is none.

    transformers makes an empty tokenizer up for a folder without one: such a tokenizer knows no token and is refused.
    """
    if not tokenizer("0")["input_ids"]:
        raise UserError(f"'{path}' has no tokenizer; save one beside the model (tokenizer.save_pretrained)")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of '{path}' has no end-of-sequence token; set `eos_token` in it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def check_vocabulary(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every token that the tokenizer can produce needs an embedding."""
    weight: Any = network.get_input_embeddings().weight
    embeddings = int(weight.shape[0])
    tokens = max(tokenizer.get_vocab().values()) + 1  # more than there are, where numbers are left out
    if tokens > embeddings:
        raise UserError(f"the tokenizer has {tokens} tokens, but the model embeds only {embeddings}")


def context_length(network: PreTrainedModel) -> int | None:
    """Tokens of prompt and response that the model was made for; None where it does not say."""
    length: int | None = getattr(network.config, "max_position_embeddings", None)
    return length


def check_head(network: PreTrainedModel) -> None:
    """Logits are computed in chunks from hidden states, so the head must be a linear map and nothing more."""
    head = network.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(f"{type(network).__name__} has no linear output projection; a causal language model is needed")
    ids = torch.arange(min(8, head.out_features), device=head.weight.device)[None]  # token 0 alone may embed to zeros
    with torch.no_grad():
        logits = network(input_ids=ids, use_cache=False).logits
        projected = head(network.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(logits, projected, rtol=1e-3, atol=1e-3):
        raise UserError(f"{type(network).__name__} changes its logits after the output projection; not supported")


def stop_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's and those of the model's generation settings."""
    more = network.generation_config.eos_token_id if network.generation_config is not None else None
    several = more if isinstance(more, list) else [more]
    return sorted({int(token) for token in [tokenizer.eos_token_id, *several] if token is not None})


def value_head(network: PreTrainedModel, spread: bool = False) -> nn.Linear:
    """A linear state-value head, zero at the start; with `spread` it also gives a standard deviation softplus(.)."""
    head = network.get_output_embeddings()
    made = nn.Linear(head.in_features, 2 if spread else 1, device=head.weight.device, dtype=head.weight.dtype)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def unique_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied weights once (safetensors refuses shared storage)."""
    named: dict[str, Tensor] = {name: parameter.detach() for name, parameter in module.named_parameters()}
    stored = module.state_dict()
    named.update({name: buffer for name, buffer in module.named_buffers() if name in stored})
    return named


def _tiny(
    task: Mapping[str, Any], model: Mapping[str, Any], settings: ModelSettings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    network, tokenizer = tiny_model(task, model, settings.seed)
    network.set_attn_implementation(settings.attention)
    nn.Module.to(network, DTYPES[settings.dtype])
    return network, tokenizer


def read_model(path: str, settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder or, from the local cache if it is there, of a hub model."""
    folder = Path(path).is_dir()
    if folder and not (Path(path) / "config.json").is_file():
        raise UserError(f"'{path}' is not a model folder: it has no config.json")
    if Path(path).is_file():
        raise UserError(f"'{path}' is a file; a model is a folder with config.json and weights, or a hub id")
    if not folder and path.startswith(("/", ".")):
        raise UserError(f"there is no model folder '{path}'")
    try:
        with quiet_loading():
            return _from_pretrained(path, settings, local_files_only=True)
    except UserError:
        if folder:
            raise
    try:  # one small file first: every file that cannot be reached costs half a minute of retries
        cached_file(path, "config.json")
    except (OSError, ValueError) as error:
        raise UserError(
            f"no model '{path}': neither a folder nor a hub model that is cached or can be reached ({_line(error)})"
        ) from error
    return _from_pretrained(path, settings, local_files_only=False)


def _from_pretrained(
    path: str, settings: ModelSettings, local_files_only: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local_files_only)
        check_tokenizer(tokenizer, path)
        network = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[settings.dtype],
            attn_implementation=settings.attention,
            local_files_only=local_files_only,
        )
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors and tokenizers raise classes of their own for a truncated file
        raise UserError(f"'{path}' cannot be loaded as a causal language model: {_line(error)}") from error
    return network, tokenizer


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
