# SPDX-License-Identifier: Apache-2.0
"""Names and arguments go in, the published networks come out, with the keys of their published weights.

Every network takes one input, returns logits, keeps no global state, and offers `forward_features(x)`, the latent
before its head, and `forward_with_latent(x)`, logits and latent of one pass.
"""
