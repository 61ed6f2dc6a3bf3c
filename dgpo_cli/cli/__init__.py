"""What the user types and sees; one file a command."""
