"""Training against what the verifier proves: data, losses, the loop, and how robust the result is. Needs torch."""
