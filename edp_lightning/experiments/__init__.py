"""Many runs: a sweep over tasks, algorithms and seeds, and the report on what came of it."""
