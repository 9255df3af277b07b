"""From run folders to tables, figures and one page."""
