# SPDX-License-Identifier: Apache-2.0
"""Bytes of a model file go in, its operators come out as layers with costs, in one shape for every format."""
