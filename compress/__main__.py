# SPDX-License-Identifier: Apache-2.0
"""`python -m edgepress.compress` is the command `compress`."""

from edgepress.__main__ import compress

if __name__ == "__main__":
    compress()
