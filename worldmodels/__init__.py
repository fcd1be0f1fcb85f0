"""World models: pure functions of (params, arrays)."""
