# SPDX-License-Identifier: Apache-2.0
"""A network goes in, its operators as a torch.fx graph for batches of any size come out, and where its channels are."""
