"""What `doctor` of either process can check: each check finds, and says what to do."""
