# SPDX-License-Identifier: Apache-2.0
"""What every measuring process needs, imported once: the server of processes forks with it."""

from __future__ import annotations

import ai_edge_quantizer  # noqa: F401
import litert_torch  # noqa: F401
import onnx  # noqa: F401
import onnxscript  # noqa: F401
import torch  # noqa: F401

from edgepress.benchmarks.experiments.networks.libraries import import_libraries

import_libraries()
