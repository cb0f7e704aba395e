"""The bound methods that need a program, and chains of bound methods."""
