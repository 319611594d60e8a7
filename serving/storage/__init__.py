"""What a bundle's files hold, mapped and checked."""
