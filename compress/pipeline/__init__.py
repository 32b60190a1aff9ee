# SPDX-License-Identifier: Apache-2.0
"""A recipe and a run directory go in, finished stages come out; what is finished is not done again."""
