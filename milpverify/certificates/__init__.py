"""Closed-form certificates of the literature: radii around an input that no adversarial example enters."""
