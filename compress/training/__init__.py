# SPDX-License-Identifier: Apache-2.0
"""A network, settings and a task go in, the trained network comes out; one loop for everything that trains."""
