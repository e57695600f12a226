"""What a policy is worth, beside the references."""
