# SPDX-License-Identifier: Apache-2.0
"""A network in training goes in and meets its budget by the end of it: ADMM, gradual, at once."""
