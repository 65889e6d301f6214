"""What survives crashes: run folders, checkpoint files, ranks, stop signals, random streams."""
