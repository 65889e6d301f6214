"""Trains the controllers and policies that collect: PPO on one core, physics in batches."""
