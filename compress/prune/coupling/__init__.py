# SPDX-License-Identifier: Apache-2.0
"""The operator graph goes in; groups of channels that must go together, and what a selection costs, come out."""
