"""What the command line looks like: its commands, their help, and what it answers to a mistake. Imports nothing heavy."""
