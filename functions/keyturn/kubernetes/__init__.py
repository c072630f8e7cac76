"""A Kubernetes cluster, as destinations and consumers use it: its API, and how to get there."""
