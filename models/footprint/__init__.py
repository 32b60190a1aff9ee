# SPDX-License-Identifier: Apache-2.0
"""What a network takes of a device: a traced graph goes in, milliseconds, instructions and bytes come out."""
