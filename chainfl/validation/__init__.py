"""What a validator does with an update: check it, and come to an integer weight and score."""
