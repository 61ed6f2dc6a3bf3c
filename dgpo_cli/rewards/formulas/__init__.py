"""General answers: read into nodes, then compared by what they say.

Reading: `tokens`, then `expression` (one expression) and `formula` (the whole answer), into
`nodes`. Comparing: `equality` decides by the kind of node and asks `sameness` (expressions),
`realsets` (inequalities, intervals), `parameters`, `congruences` and `units`; `values` evaluates
nodes at points.
"""
