"""The command line: its commands, their help, what it answers to a mistake. Only ``offline_cli`` imports anything heavy."""
