"""The adversarial polytope of a network: the exact set, its relaxations, and where the gap comes from."""
