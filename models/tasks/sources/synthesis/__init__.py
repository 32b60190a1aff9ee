# SPDX-License-Identifier: Apache-2.0
"""A random generator goes in, the sounds and the microphones of the synthetic task come out."""
