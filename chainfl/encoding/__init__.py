"""From floating tensors to integers that a contract can check: layout, fixed point, chunk tree, payload files."""
