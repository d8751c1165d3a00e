//! The safety protocol of one shard: in-sync set, leases, failover, handover, reply gating.
