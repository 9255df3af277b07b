"""How fast this is: updates, steps, memory, and the share of what the machine could do."""
