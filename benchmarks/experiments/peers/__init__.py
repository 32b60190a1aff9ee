# SPDX-License-Identifier: Apache-2.0
"""Other tools go in beside ours, one table comes out."""
