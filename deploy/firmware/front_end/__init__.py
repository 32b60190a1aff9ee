# SPDX-License-Identifier: Apache-2.0
"""The log-mel front end in generated C: its tables, and the functions that listen."""
