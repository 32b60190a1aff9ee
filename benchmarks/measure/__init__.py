# SPDX-License-Identifier: Apache-2.0
"""A file goes in, what it costs and how well it does on each runtime comes out."""
