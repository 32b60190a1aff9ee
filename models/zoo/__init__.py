"""Networks with the parameter names and shapes of the published ones, so that published weights load as they are.

Every network takes one input, returns logits, keeps no global state, and offers `forward_features(x)`, the latent
before its head, and `forward_with_latent(x)`, logits and latent of one pass.
"""
