# SPDX-License-Identifier: Apache-2.0
"""Valid files go in, thousands of damaged ones are made of them and read; how each reading ended comes out."""
