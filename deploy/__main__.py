# SPDX-License-Identifier: Apache-2.0
"""`python -m edgepress.deploy` is the command `deploy`."""

from edgepress.__main__ import deploy

if __name__ == "__main__":
    deploy()
