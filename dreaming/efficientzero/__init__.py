"""The second loop: the agent that searches while it collects frames, and learns beside it."""
