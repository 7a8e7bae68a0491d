"""The process node: a small kubelet that runs the pods bound to it as processes of this machine.

It speaks to the real API server as `system:node:NAME` and does what controllers, the scheduler and kubectl expect of
a node: registration and Lease, statuses, restarts with back-off, probes, grace, bound tokens, events and logs. It makes
no containers, so it cannot do everything. What it does not do is refused with a sentence in the container's `waiting`
state, or ignored where that does no harm:

Refused: a container without `command`; sidecars (init containers that restart always); `postStart`; block devices;
mounts whose path it cannot honour (see `rapidfireai.cluster.node.volumes`); exec, attach and port-forward.

Ignored: images, `securityContext`, limits on CPU and memory (the downward API reports them), read-only mounts, host
names, DNS settings, ephemeral containers. Pods share the machine's network: a program listens on its own `POD_IP`, not
on every address. It is found on the node's own PATH, where the Python environment that the node runs in comes first.
"""
