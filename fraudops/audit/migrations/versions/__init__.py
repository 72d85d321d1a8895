"""One module for each revision; their names begin with the number."""
