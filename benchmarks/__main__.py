# SPDX-License-Identifier: Apache-2.0
"""`python -m edgepress.benchmarks` is the command `benchmarks`."""

from edgepress.__main__ import benchmarks

if __name__ == "__main__":
    benchmarks()
