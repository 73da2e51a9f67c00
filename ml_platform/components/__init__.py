"""The two kinds of declaration a team writes in YAML: a table and a model."""
