# SPDX-License-Identifier: Apache-2.0
"""What exists: tasks, networks, their cost, their limits and the device classes they are for."""
