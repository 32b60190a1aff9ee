# SPDX-License-Identifier: Apache-2.0
"""Bytes of an .onnx go in, bounds-checked values and nodes come out."""
