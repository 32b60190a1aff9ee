# SPDX-License-Identifier: Apache-2.0
"""The commands that make teachers and students: options go in, an ensemble, a student or a study comes out."""
