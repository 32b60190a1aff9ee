# SPDX-License-Identifier: Apache-2.0
"""Commands go in, stopped, killed and out of disk; what each of them left behind, lost or said comes out."""
