"""How often the gate is fooled: its cases and judges."""
