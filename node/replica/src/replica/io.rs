//! What goes into a [`Replica`](super::Replica) and what comes out of it.

use std::sync::Arc;

use ringmaster_ring::{Command, Holder, Position, Ring, Seq, ShardEpoch, ShardId};
use serde::{Deserialize, Serialize};

use crate::{GateState, History};

/// One request for a lease, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AskId(pub u64);

/// One attempt of a copy to follow its primary. Numbered by the copy, so unique together with its boot id. Everything
/// that travels on the stream carries it, so that nothing of a former attempt is taken for this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u64);

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamStart {
    /// With the log record after this one: the copy's log is a beginning of the primary's.
    After(Seq),
    /// With a walk over all data, then the log: what the copy has is of no use.
    Walk,
}

/// Why a primary does not open a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseReason {
    /// This member is not the primary of that epoch.
    NotPrimary,
    /// The copy would have to discard what it has, and it is, or believes to be, in the in-sync set: it keeps its data
    /// until the primary has taken it out (rule 2).
    MustLeave,
    /// The copy is retired or unknown to the ring.
    NotWanted,
}

/// What happened. Inputs of one stream come in the order of that stream.
#[derive(Clone, Debug)]
pub enum Input {
    /// A ring document. Older ones than the newest known are ignored.
    Ring(Arc<Ring>),
    /// Time went on: at least every eighth of a lease.
    Tick,
    /// As primary: the log now ends here. Monotone; may lag behind the data path.
    LogEnd(Seq),
    /// What [`Output::AskLease`] asked for. Late and unknown ones are ignored; a refusal needs no input.
    LeaseGranted {
        ask: AskId,
        /// Every other grant on the shard is over (rule 10).
        prev_over: bool,
    },
    /// The process was asked to end: ask the ring for a replacement.
    Leave,
    /// Withdraws [`Input::Leave`].
    Stay,

    /// A copy wants to follow. `kept_after` and `log_end` are the shell's, read from the log when the request came:
    /// records after `kept_after` can still be read, and `log_end` is the last.
    Subscribe {
        stream: StreamId,
        from: Holder,
        /// The shard's epoch as the copy knows it.
        epoch: ShardEpoch,
        /// The copy's last record; 0:0 if it has none.
        last: Position,
        /// The copy has seen itself outside the in-sync set in this epoch, or has nothing.
        may_discard: bool,
        kept_after: Seq,
        log_end: Seq,
    },
    /// A copy's stream broke, was closed by the copy, or could not be served from the log any more.
    CopyLost { stream: StreamId, from: Holder },
    /// A copy holds everything up to `seq`, said in `epoch`.
    Ack { stream: StreamId, from: Holder, epoch: ShardEpoch, seq: Seq },
    /// After [`Output::Barrier`]: nothing runs under the old gate any more, and the log ends at `end` for good.
    Barrier { end: Seq },

    /// The primary opened the stream that [`Output::Follow`] asked for.
    Accepted { stream: StreamId, epoch: ShardEpoch, start: StreamStart },
    /// The primary did not open it. The stream is over.
    Refused { stream: StreamId, reason: RefuseReason },
    /// The stream broke, or could not be opened. It is over.
    StreamLost { stream: StreamId },
    /// Log records came, all of `entry_epoch`. They may be applied only when [`Output::Apply`] says so. Not given in
    /// during a walk: see [`Output::Walk`].
    Records {
        stream: StreamId,
        /// The epoch under which the primary sends.
        epoch: ShardEpoch,
        entry_epoch: ShardEpoch,
        first: Seq,
        last: Seq,
        /// What the primary counts as committed.
        committed: Seq,
    },
    /// The primary is there. Sent at least three times per `failover_after_ms`, to every copy and during walks too, and
    /// at once when `committed` has moved and nothing else says so: a former primary answers by it.
    Heartbeat { stream: StreamId, epoch: ShardEpoch, end: Seq, committed: Seq },
    /// The records up to `last` are applied, as [`Output::Apply`] allowed.
    Applied { last: Position },
    /// The walk is done: this member's data is that of a log with this history, up to `end`.
    WalkDone { stream: StreamId, epoch: ShardEpoch, end: Position, history: History },
    /// The data is dropped, as [`Output::Discard`] said.
    Discarded,
    /// The former primary has sent its last record and serves no more (rule 7).
    Release { stream: StreamId, epoch: ShardEpoch, last: Position },
}

/// What to do, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this to the ring's leader. It may get lost; another follows.
    AskLease {
        ask: AskId,
        shard: ShardId,
        epoch: ShardEpoch,
        holder: Holder,
    },
    /// Propose this to the ring. What became of it is seen in the ring alone (rule 5); while it is still wanted it is
    /// proposed again.
    Propose(Command),
    /// New state for the serving threads. After [`Output::Serve`] and before [`Output::Barrier`] of the same call.
    Publish(GateState),

    /// Serve: the log goes on after `start` with records of `epoch`.
    Serve {
        epoch: ShardEpoch,
        start: Position,
    },
    /// Take and release every lane once, then give in [`Input::Barrier`].
    Barrier,
    /// Open the stream to a copy, on the connection on which it asked. Any earlier stream to this member is replaced.
    OpenStream {
        stream: StreamId,
        to: Holder,
        epoch: ShardEpoch,
        start: StreamStart,
    },
    RefuseStream {
        stream: StreamId,
        to: Holder,
        reason: RefuseReason,
    },
    CloseStream {
        stream: StreamId,
        to: Holder,
    },
    /// Send the copy every record up to `last` under `epoch`, on the stream it has, then the release.
    Release {
        stream: StreamId,
        to: Holder,
        epoch: ShardEpoch,
        last: Position,
    },

    /// Connect to `primary` and send it a `Subscribe` of these values. Replaces the stream followed so far: nothing
    /// more of that one is applied or given in. Ends with [`Input::Accepted`], [`Input::Refused`] or
    /// [`Input::StreamLost`].
    Follow {
        stream: StreamId,
        primary: Holder,
        epoch: ShardEpoch,
        last: Position,
        may_discard: bool,
    },
    /// Close the stream followed so far: nothing more of it is applied or given in.
    Unfollow {
        stream: StreamId,
    },
    /// Begin to apply the walk of this stream: its pieces and the filtered records between them, which are the shell's
    /// business until [`Input::WalkDone`]. The data is empty now.
    Walk {
        stream: StreamId,
    },
    /// Apply these records, which the last [`Input::Records`] described, then give in [`Input::Applied`].
    Apply {
        stream: StreamId,
        first: Seq,
        last: Seq,
    },
    /// Tell the primary that this member holds everything up to `seq`.
    SendAck {
        stream: StreamId,
        to: Holder,
        epoch: ShardEpoch,
        seq: Seq,
    },
    /// Drop all data and reset the log to nothing, then give in [`Input::Discarded`].
    Discard,
}
