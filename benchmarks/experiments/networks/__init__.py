# SPDX-License-Identifier: Apache-2.0
"""Networks that people bring go in by name, a table of what each tool makes of them comes out."""
