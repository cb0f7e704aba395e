"""One file per group of commands: each adds its parser, and runs."""
