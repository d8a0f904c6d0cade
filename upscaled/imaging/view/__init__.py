"""Pictures for the eye: thumbnails, tiles and crops, in sRGB with 8 bits a sample."""
