# SPDX-License-Identifier: Apache-2.0
"""What a command says to a person: a subject goes in, a sentence, a line of progress or a table comes out."""
