"""How an open case is searched: whole problems given to a mixed-integer solver."""
