# SPDX-License-Identifier: Apache-2.0
"""Blocks of the report that hold the networks of a run against each other, and say which one a device class gets."""
