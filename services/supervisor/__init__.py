"""The program that keeps a whole fraudops running on one machine."""
