"""What people and programs read: tables, progress, JSON, result files."""
