"""Looking ahead in a model: teachers, tree searches, reanalysis."""
