//! The data node: sockets, threads, disk, Raft transport, HTTP and metrics around the pure crates.
