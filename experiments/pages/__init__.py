"""What readers see: reports, figures, words."""
