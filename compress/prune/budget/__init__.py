# SPDX-License-Identifier: Apache-2.0
"""Groups, scores and budgets go in, the channels that are kept come out."""
