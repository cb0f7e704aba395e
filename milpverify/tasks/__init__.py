"""What users ask: is the property true, how small is the margin, how near is the nearest adversarial example."""
