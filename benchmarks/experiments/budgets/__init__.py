# SPDX-License-Identifier: Apache-2.0
"""What kernels cost on every core, and whether budgets of devices hold: counts and files go in, tables come out."""
