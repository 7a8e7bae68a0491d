"""The local cluster: a real Kubernetes control plane on loopback, without root or containers."""
