"""What the step of each asset does. The graph is declared without it: a step imports its module here when it runs."""
