# SPDX-License-Identifier: Apache-2.0
"""A recipe file goes in, settings come out that were checked as a whole."""
