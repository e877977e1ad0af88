"""Images: decoding, geometry, data sets, and the order in which training sees them."""
