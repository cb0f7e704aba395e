"""What is verified: the canonical affine-ReLU form, its linear operators, and the readers that lower to it."""
