"""Reports: pages, figures, tables and their words."""
