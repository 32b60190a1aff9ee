# SPDX-License-Identifier: Apache-2.0
"""A checkpoint goes in, a proven file for a device comes out."""
