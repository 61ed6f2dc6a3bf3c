"""Small charts as SVG: ticks, fewer points for long curves, and the drawing itself."""
