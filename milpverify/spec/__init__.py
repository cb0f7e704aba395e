"""What is claimed: input regions, unsafe output sets, properties, and the VNN-LIB files they come from."""
