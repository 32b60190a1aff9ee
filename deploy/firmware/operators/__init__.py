# SPDX-License-Identifier: Apache-2.0
"""Operators of a .tflite go in, one rule each; calls of the C kernels with their integers come out."""
