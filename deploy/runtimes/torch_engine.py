# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as an engine: float, or int8 as fake quantization (the reference of every parity figure)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepress.deploy.runtimes.engine import Stateless
from edgepress.deploy.runtimes.registry import missing_package
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized

_BATCH = 32


class TorchEngine(Stateless):
    """Runs a checkpoint directory in evaluation mode; inputs and outputs are float32 in torch's layout."""

    def __init__(self, path: Path, *, threads: int = 1, trust: bool = False):
        try:
            import torch
        except ImportError as error:
            raise missing_package("torch", error) from error
        from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_quantization

        self._torch, self._threads = torch, threads
        model, spec = load_checkpoint(path, trust=trust)
        model.eval()
        examples = spec.example_inputs()
        #: Of an int8 checkpoint, else None.
        self.quantized: Quantized | None = None
        quantization = read_quantization(path)
        if quantization is not None:
            from edgepress.compress.quantize import restore_quantized

            self.quantized = restore_quantized(model, examples, quantization)
            model = self.quantized.model
            model.eval()
        self._model = model
        self.inputs: tuple[TensorDetails, ...] = tuple(
            TensorDetails(f"x{i}", (-1, *e.shape[1:]), "float32") for i, e in enumerate(examples)
        )
        self.outputs: tuple[TensorDetails, ...] = ()
        made = self.run([example.numpy() for example in examples])
        self.outputs = tuple(TensorDetails(f"y{i}", (-1, *y.shape[1:]), "float32") for i, y in enumerate(made))

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        torch = self._torch
        if not len(arrays[0]):
            return [np.zeros((0, *d.shape[1:]), np.float32) for d in self.outputs]
        before, made = torch.get_num_threads(), []
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                for start in range(0, len(arrays[0]), _BATCH):
                    batch = [torch.from_numpy(np.array(a[start : start + _BATCH], np.float32)) for a in arrays]
                    output = self._model(*batch)
                    made.append([y.numpy() for y in (output if isinstance(output, tuple | list) else (output,))])
        except RuntimeError as error:
            raise RuntimeFailure(f"torch failed while running: {str(error).splitlines()[0]}") from error
        finally:
            torch.set_num_threads(before)
        return [np.concatenate(parts) for parts in zip(*made, strict=True)]

    def close(self) -> None:
        self.__dict__.pop("_model", None)
