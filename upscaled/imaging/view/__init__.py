"""Pictures to look at: thumbnails, tiles and crops, in sRGB with 8 bits a sample."""
