"""The deployed network: what it sees, how it is rehearsed, distilled, scored and saved."""
