"""How a program is optimised: a sparse MILP as data, and the solvers that take one. Knows no network."""
