# SPDX-License-Identifier: Apache-2.0
"""A file goes in; where its runtimes differ, which of them take it, and what it loses without loss come out."""
