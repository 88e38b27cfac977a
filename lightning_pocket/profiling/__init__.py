"""What a network costs: formulas and measurements."""
