# SPDX-License-Identifier: Apache-2.0
"""A selection of channels goes in, the smaller network comes out, proven equal to the masked one."""
