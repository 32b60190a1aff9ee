# SPDX-License-Identifier: Apache-2.0
"""A network with its integers goes in, a .tflite, an .onnx or C source with a manifest comes out."""
