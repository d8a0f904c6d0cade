"""Archives of pictures: reading, checking and rewriting them."""
