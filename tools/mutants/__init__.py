"""Mutation testing: small mistakes are put into the core, one at a time, and the tests must notice."""
