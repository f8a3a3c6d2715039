"""What a map holds, and the file that it is kept in."""
