# SPDX-License-Identifier: Apache-2.0
"""What rules of operators are made of: steps, questions about tensors, fixed-point integers, tables of functions."""
