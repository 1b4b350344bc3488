"""What two programmes need. Imports no programme."""
