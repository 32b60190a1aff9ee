# SPDX-License-Identifier: Apache-2.0
"""Outputs and labels of a kind of task go in; its loss, its figures and their intervals come out."""
