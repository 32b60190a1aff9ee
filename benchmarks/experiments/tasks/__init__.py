# SPDX-License-Identifier: Apache-2.0
"""Real recordings go in; what the kinds of task measure of them on every runtime comes out, and docs/tasks.md."""
