# SPDX-License-Identifier: Apache-2.0
"""Folders of generated C, as the build systems of microcontrollers open them."""
