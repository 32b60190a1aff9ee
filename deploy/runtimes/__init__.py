# SPDX-License-Identifier: Apache-2.0
"""A file goes in, a session comes out that runs it on one runtime, isolated where that may crash."""
