"""The same arithmetic, faster: precision, compilation, passes over an ensemble."""
