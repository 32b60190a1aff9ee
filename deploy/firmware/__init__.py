# SPDX-License-Identifier: Apache-2.0
"""An int8 .tflite goes in, C source comes out, and its figures on emulated cores."""
