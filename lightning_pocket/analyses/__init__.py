"""What is learned about a training from its gradients and losses; torch only."""
