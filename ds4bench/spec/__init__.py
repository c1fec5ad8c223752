"""Gate files: pydantic models, YAML loading with file:line errors, JSON Schema."""
