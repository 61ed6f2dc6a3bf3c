"""Studies: variants of settings that are trained with the same seeds, and compared."""
