# SPDX-License-Identifier: Apache-2.0
"""A network goes in, as torch.export sees it; what it costs under every counting rule comes out."""
