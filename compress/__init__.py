# SPDX-License-Identifier: Apache-2.0
"""A checkpoint goes in, a smaller one comes out."""
