"""What is learned, and in which order: one LightningModule per file."""
