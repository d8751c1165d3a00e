//! The operator: observes Kubernetes and the ring, plans, and acts.
