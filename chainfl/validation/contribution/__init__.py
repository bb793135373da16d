"""What each accepted update of a round is worth, on a validator's held-out data. One file a method."""
