"""Integer aggregation rules and server steps, bit for bit the same as `FixedPoint.sol`. One file a rule."""
