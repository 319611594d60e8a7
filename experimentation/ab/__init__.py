"""Plans and analyses of A/B tests from the impression log."""
