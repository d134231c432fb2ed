"""The size of a group that follows its load: measuring, the policy, and reaching the size."""
