"""From network to program: big-M mixed-integer programs and their LP relaxations, on the condensed network."""
