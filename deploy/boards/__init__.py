# SPDX-License-Identifier: Apache-2.0
"""A file and an address go in, what a board made of it comes out."""
