"""The server's side of weight updates by file: imported in vLLM's workers, never in the trainer."""

from collections.abc import Iterator
from dataclasses import dataclass

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


class Extension:
    """What vLLM mixes into its workers: nothing; that it imports this module is enough."""


@dataclass
class Nothing(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Files need no preparation."""


@dataclass
class WeightFile(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file that the workers can read; its metadata maps further names to tensors in it."""

    path: str


class FileTransfer(WeightTransferEngine):  # type: ignore[misc]
    """Loads a model's weights from a file, in the layout of transformers' `state_dict`, into the running model."""

    init_info_cls = Nothing
    update_info_cls = WeightFile

    def init_transfer_engine(self, init_info: Nothing) -> None:
        """Nothing to prepare."""

    def start_weight_update(self) -> None:
        """Prepare every layer for weights as a model folder holds them."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: WeightFile) -> None:
        """Load all tensors of the file."""
        self.model.load_weights(_tensors(update_info.path))

    def finish_weight_update(self) -> None:
        """Pack the layers again for the kernels that run them."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to release."""


def _tensors(path: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            yield name, file.get_tensor(name)
        for name, stored in (file.metadata() or {}).items():
            yield name, file.get_tensor(stored)


if "file" not in WeightTransferEngineFactory._registry:  # the module may be imported under two names
    WeightTransferEngineFactory.register_engine("file", FileTransfer)
