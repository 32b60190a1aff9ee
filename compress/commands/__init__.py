# SPDX-License-Identifier: Apache-2.0
"""What a person typed goes in, calls of the rooms come out; one file for each command of `compress`."""
