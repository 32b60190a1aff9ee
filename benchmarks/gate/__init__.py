# SPDX-License-Identifier: Apache-2.0
"""Measurements, limits and a baseline go in, a verdict with reasons comes out."""
