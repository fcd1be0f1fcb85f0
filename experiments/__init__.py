"""One file per verb: reads conf, calls dreaming, writes runs."""
