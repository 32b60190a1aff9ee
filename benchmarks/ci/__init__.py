# SPDX-License-Identifier: Apache-2.0
"""A pull request or a commit goes in, the gate's verdict comes out where its author reads it."""
