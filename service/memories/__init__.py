"""What is remembered, in its owner's hands."""
