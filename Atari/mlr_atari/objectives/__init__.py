"""What shapes the representation: one objective a file."""
