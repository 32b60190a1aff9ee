# SPDX-License-Identifier: Apache-2.0
"""Trained networks go in, what their integers cost on every runtime comes out."""
