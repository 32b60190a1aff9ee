# SPDX-License-Identifier: Apache-2.0
"""Runs go in, a folder as DCASE Task 1 wants it comes out: predictions, complexity, results, checked as published."""
