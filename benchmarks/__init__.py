# SPDX-License-Identifier: Apache-2.0
"""Files, devices and limits go in, verdicts come out."""
