"""C++ for what PyTorch does not do fast enough on a CPU. Everything here has an equivalent in PyTorch that is used elsewhere."""
