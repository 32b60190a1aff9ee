"""A network and its description go in, a directory without pickle comes out, and the network again from that."""
