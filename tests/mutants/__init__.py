"""Mutation testing of the decisions: `make mutants`. See CONTRIBUTING.md."""
