"""Output of commands for people: tables, texts and progress bars."""
