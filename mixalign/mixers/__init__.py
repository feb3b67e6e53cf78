"""Rules that decide the mixture: measurements in, weights out; pure maths, one rule a file."""
