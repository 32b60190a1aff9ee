# SPDX-License-Identifier: Apache-2.0
"""Files that anybody may have written go in; values within bounds, and of the shape that was asked for, come out."""
