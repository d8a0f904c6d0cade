"""Files that several machines share."""
