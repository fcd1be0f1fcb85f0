"""Accept or reject: by real episodes, or by estimates from the log alone."""
