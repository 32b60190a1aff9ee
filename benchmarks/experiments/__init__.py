# SPDX-License-Identifier: Apache-2.0
"""Questions about edgepress go in, results files and the pages of docs/ come out; not part of the wheel."""
