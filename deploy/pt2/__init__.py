# SPDX-License-Identifier: Apache-2.0
"""A torch.export program made elsewhere goes in (in memory, or a .pt2 file), our network with its ranges comes out."""
