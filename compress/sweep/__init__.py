# SPDX-License-Identifier: Apache-2.0
"""A grid of recipes, budgets, seeds and device classes goes in, one resumable run for each point comes out."""
