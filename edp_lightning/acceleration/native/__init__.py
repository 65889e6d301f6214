"""C++ for what PyTorch does not do fast enough on a CPU. Everything here is done by PyTorch where it cannot be used."""
