# SPDX-License-Identifier: Apache-2.0
"""Recordings go in, what teachers and the contrastive term are worth comes out."""
