# SPDX-License-Identifier: Apache-2.0
"""What a person typed goes in, calls of the rooms come out; what the commands of `benchmarks` share."""
