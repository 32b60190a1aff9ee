# SPDX-License-Identifier: Apache-2.0
"""A model file and what was measured of it go in, its result card comes out: one page and one Markdown text."""
