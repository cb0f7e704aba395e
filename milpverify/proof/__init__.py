"""Evidence: verdicts, brackets and witnesses, and their replay in exact arithmetic."""
