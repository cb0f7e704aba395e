"""Every bound is a nu: producers of dual multipliers, and one rigorous kernel that evaluates them."""
