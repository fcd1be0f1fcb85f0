"""Looking ahead in a model: teachers and tree searches."""
