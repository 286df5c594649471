"""Everything that is kept of a user, to take along."""
