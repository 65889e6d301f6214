"""From episodes to rows of transitions: rewards, normalisation, cache."""
