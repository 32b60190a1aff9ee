# SPDX-License-Identifier: Apache-2.0
"""A network and its description go in, a directory without pickle comes out, and the network again from that."""
