# SPDX-License-Identifier: Apache-2.0
"""A run goes in, pages, tables and challenge submissions come out."""
