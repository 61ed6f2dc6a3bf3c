"""Pure maths: advantages, divergence, credit rules, losses, estimators. No I/O."""
