"""Archives of pictures: what is in them, whether that can be trusted, and writing them anew."""
