"""Attacks: floating-point searches for witnesses; what they find counts only after exact replay."""
