# SPDX-License-Identifier: Apache-2.0
"""Operators of a folded network go in; the same functions, in operators that have integer kernels, come out."""
