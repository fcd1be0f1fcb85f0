"""One file per verb: reads its options, calls dreaming, writes run directories."""
