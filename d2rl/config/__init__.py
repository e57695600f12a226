"""The configuration: defaults, schema, and how it is read."""
