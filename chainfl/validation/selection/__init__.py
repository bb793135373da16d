"""Which updates of a round count, and how much: robust rules that become validators' weights. One file a rule.

The chain proves rules that look at one coordinate at a time (mean, trimmed mean, median). Rules that look across
coordinates belong to the validators: each comes to integer weights, and the contract takes the medians. No rule looks
at example counts: nobody can check what a worker says of itself.
"""
