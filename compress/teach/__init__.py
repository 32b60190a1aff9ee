# SPDX-License-Identifier: Apache-2.0
"""Trained networks go in, teachers and ensembles come out, and what they know of the recording device."""
