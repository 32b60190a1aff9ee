# SPDX-License-Identifier: Apache-2.0
"""A network goes in, its graph with our integers as quantization pairs for ExecuTorch comes out; and the engine."""
