# SPDX-License-Identifier: Apache-2.0
"""A text that names data goes in, its Task comes out: folders of clips, arrays, generated scenes, a user's own code."""
