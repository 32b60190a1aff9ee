# SPDX-License-Identifier: Apache-2.0
"""Bytes of a .tflite go in, tensors and operators come out, and the other way round."""
